"""The model and the PNG of the contenders written to be fast: ONNX Runtime and stored PNGs, both as vae-serve's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.formats.png import write_png
from service.inference.onnx_backend import OnnxBackend
from service.settings import BUNDLED
from vae.arrays import read


def load_backend() -> OnnxBackend:
    """The bundled model, on one thread."""
    checkpoint = read(BUNDLED)
    return OnnxBackend(checkpoint.config, checkpoint.arrays)


def decode(backend: OnnxBackend, z: Sequence[Sequence[float]]) -> list[bytes]:
    """Latents (N, D) → N PNGs, from one forward pass."""
    pixels = backend.decode(np.array(z, np.float32))
    count, _, height, width = pixels.shape
    scanlines = np.zeros((count, 1, height, 1 + width), np.uint8)
    scanlines[..., 1:] = pixels * 255 + 0.5
    return [write_png(image, 1) for image in scanlines]
