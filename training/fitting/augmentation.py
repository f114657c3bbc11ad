"""Images turned, moved, scaled and slanted a little: others like those of a data set."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

ANGLE = math.radians(5)
SHIFT = 0.05
"""Of half a side: 0.7 pixels of 28."""
SCALE = 0.05
SHEAR = 0.07
AS_IT_IS = 0.3
"""Share of the images that are left alone."""
NUMBERS = 7


def random_affine(x: Tensor, numbers: Tensor) -> Tensor:
    """Images (N, C, H, W) → images, by random `numbers` (N, 7) in [0, 1)."""
    angle, right, down, wider, higher, slant = (2 * numbers[:, :6] - 1).unbind(1)
    cos, sin = torch.cos(ANGLE * angle), torch.sin(ANGLE * angle)
    wider, higher = 1 + SCALE * wider, 1 + SCALE * higher
    rows = [
        torch.stack([cos * wider, SHEAR * slant - sin * wider, SHIFT * right], 1),
        torch.stack([sin * higher, cos * higher, SHIFT * down], 1),
    ]
    grid = affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    varied = grid_sample(x, grid, padding_mode="border", align_corners=False)
    return torch.where((numbers[:, 6] < AS_IT_IS).view(-1, 1, 1, 1), x, varied)
