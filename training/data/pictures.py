"""Pictures → uint8 tensors, by the reader that the service has too."""

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
"""Pixels of a picture, as many as Pillow opens by default: more take a gigabyte to decode."""


def open_file(body: bytes, name: str) -> Image.Image:
    """Read the header of a picture; raises PictureError, whose message begins with `name`."""
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):  # from half of it on
        file, exif = without_metadata(body, name)
        return open_picture(io.BytesIO(file), exif, PIXEL_LIMIT, name)


def read_picture(body: bytes, shape: tuple[int, int, int], fit: Fit, name: str) -> Tensor:
    """A picture brought to `shape` (C, H, W) as `fit` says, uint8; raises PictureError."""
    return torch.from_numpy(to_pixels(open_file(body, name), shape, fit=fit, invert=False, name=name).copy())
