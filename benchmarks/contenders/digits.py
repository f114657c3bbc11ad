"""The model and the PNG that every contender shares: eager torch, Pillow with its defaults."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from PIL import Image

from vae import VAE, load


def load_model() -> VAE:
    """The bundled model."""
    return load(Path(str(files("weights"))) / "mnist.safetensors").model


def decode(model: VAE, z: Sequence[Sequence[float]]) -> list[bytes]:
    """Latents (N, D) → N PNGs, from one forward pass."""
    with torch.inference_mode():
        pixels = model.decode(torch.tensor(z)).sigmoid().mul(255).round().to(torch.uint8)
    return [_png(image) for image in pixels[:, 0]]


def _png(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "PNG")
    return buffer.getvalue()
