"""Random changes of training images: flips and crops, and small rotations, shifts, scalings and shears."""

from __future__ import annotations

import math
from collections.abc import Collection

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
"""Random numbers that one image takes in `random_affine`."""
FLIP_CROP_NUMBERS = 3
"""The same in `random_flip_crop`."""


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


def random_flip_crop(images: Tensor, numbers: Tensor, augmentations: Collection[str]) -> Tensor:
    """Mirror images left to right, and crop them at a random place after padding, as for CIFAR-10 (He et al. 2016).

    The padding is an eighth of each side, 4 pixels of 32, and repeats the image mirrored at its border.

    Args:
        images: Images (N, C, H, W) of any dtype.
        numbers: Random numbers in [0, 1), (N, FLIP_CROP_NUMBERS), on the device of the images.
        augmentations: `flip`, which mirrors half of the images, `crop`, or both.

    Returns:
        Images of the same shape and dtype, whose pixels are pixels of `images`.

    """
    count, channels, height, width = images.shape
    rows, columns = (torch.arange(side, device=images.device).expand(count, side) for side in (height, width))
    if "crop" in augmentations:
        rows, columns = _shifted(rows, numbers[:, 1]), _shifted(columns, numbers[:, 2])
    if "flip" in augmentations:
        columns = torch.where(numbers[:, :1] < 0.5, width - 1 - columns, columns)
    pixels = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).view(count, 1, height * width)
    chosen = images.flatten(2).gather(2, pixels.expand(-1, channels, -1))
    return chosen.view(images.shape)


def _shifted(places: Tensor, numbers: Tensor) -> Tensor:
    """Shift `places` 0, 1, …, side − 1, (N, side), by up to an eighth of the side; reflect those outside."""
    last = places.shape[1] - 1
    padding = round(places.shape[1] / 8)
    shifts = (numbers * (2 * padding + 1)).long() - padding
    return last - (last - (places + shifts.unsqueeze(1)).abs()).abs()
