"""Random affine augmentation: small rotations, shifts, scalings and shears."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

ANGLE = math.radians(5)
"""Largest rotation, in radians."""
SHIFT = 0.05
"""Largest shift, as a share of half a side: 0.7 of 28 pixels."""
SCALE = 0.05
"""Largest change of either side, as a share of it."""
SHEAR = 0.07
"""Largest shear: shift per row, as a share of the row's distance from the centre."""
UNCHANGED = 0.3
"""Share of the images that are not augmented."""
NUMBERS = 7
"""Random numbers that one image takes."""


def random_affine(x: Tensor, numbers: Tensor) -> Tensor:
    """Transform images (N, C, H, W) by random `numbers` (N, NUMBERS) in [0, 1)."""
    angle, right, down, wider, higher, slant = (2 * numbers[:, :6] - 1).unbind(1)
    cos, sin = torch.cos(ANGLE * angle), torch.sin(ANGLE * angle)
    wider, higher = 1 + SCALE * wider, 1 + SCALE * higher
    rows = [
        torch.stack([cos * wider, SHEAR * slant - sin * wider, SHIFT * right], 1),
        torch.stack([sin * higher, cos * higher, SHIFT * down], 1),
    ]
    grid = affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    varied = grid_sample(x, grid, padding_mode="border", align_corners=False)
    return torch.where((numbers[:, 6] < UNCHANGED).view(-1, 1, 1, 1), x, varied)
