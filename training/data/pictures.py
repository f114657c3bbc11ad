"""Decode pictures to uint8 tensors, exactly as the service does."""

from __future__ import annotations

import io
import warnings

import torch
from PIL import Image
from torch import Tensor

from pictures.metadata import without_metadata
from pictures.opening import open_picture
from pictures.pixels import to_pixels
from vae.metadata import Fit

PIXEL_LIMIT = 178_956_970
"""Most pixels of a picture: Pillow's own limit, because a larger one takes a gigabyte to decode."""


def open_file(body: bytes, name: str) -> Image.Image:
    """Read the header of a picture; raises PictureError, whose message begins with `name`."""
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):  # from PIXEL_LIMIT / 2 on
        file, exif = without_metadata(body, name)
        return open_picture(io.BytesIO(file), exif, PIXEL_LIMIT, name)


def read_picture(body: bytes, shape: tuple[int, int, int], fit: Fit, name: str) -> Tensor:
    """Decode a picture and resize it by `fit` to uint8 `shape` (C, H, W); raises PictureError with `name`."""
    return torch.from_numpy(to_pixels(open_file(body, name), shape, fit=fit, invert=False, name=name).copy())
