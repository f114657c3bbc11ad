"""What the service gave: NumPy arrays, and ways to have them as tensors, pictures and files.

Shapes: `L` is the model's `latent_shape`, (D,) or, where latents are maps, (C', h, w); `C×H×W` its image. One item in,
one out; a batch of N gives N. All arrays are float32, losses in nats.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, fields
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """Named arrays."""

    seed: int | None = None
    """With which the draw can be repeated, where there was one."""

    def to_torch(self) -> dict[str, torch.Tensor]:
        """The arrays as tensors that share their memory."""
        import torch  # noqa: PLC0415

        return {name: torch.from_numpy(array) for name, array in self._arrays().items()}

    def to_npz(self) -> bytes:
        """The arrays as NumPy's .npz file."""
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **self._arrays())
        return stream.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file of the arrays."""
        if Path(path).suffix.lower() != ".npz":
            raise ValueError(f"{path} does not end in .npz, the format of named arrays.")
        Path(path).write_bytes(self.to_npz())

    def _arrays(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Posterior(Answer):
    """q(z|x) = N(mean, exp(log_variance)), each L or (N, *L)."""

    mean: FloatArray
    log_variance: FloatArray
    z: FloatArray | None = None
    """A draw of it, where asked for."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Images(Answer):
    """Pixels (C, H, W) or (N, C, H, W) in [0, 1]."""

    pixels: FloatArray

    def to_pil(self) -> list[Image]:
        """One picture for each image, L or RGB."""
        return [_picture(image) for image in self._batch()]

    def to_png(self) -> bytes:
        """One PNG: the image, or a sheet of them as square as it can be, row by row."""
        stream = io.BytesIO()
        self._sheet().save(stream, "PNG")
        return stream.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file of the arrays, or a picture, as of `to_png`, in the format of the path's suffix."""
        if Path(path).suffix.lower() == ".npz":
            super().save(path)
        else:
            self._sheet().save(path)

    def _batch(self) -> FloatArray:
        return self.pixels.reshape(-1, *self.pixels.shape[-3:])

    def _sheet(self) -> Image:
        images = self._batch()
        count, channels, height, width = images.shape
        columns = ceil(sqrt(count))
        rows = ceil(count / columns)
        grid = np.zeros((rows * columns, channels, height, width), np.float32)
        grid[:count] = images
        tiles = grid.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
        return _picture(tiles.reshape(channels, rows * height, columns * width))


@dataclass(frozen=True, eq=False, kw_only=True)
class Reconstruction(Images):
    """Images through the latent space and back, with their posterior; losses are () or (N,)."""

    mean: FloatArray
    log_variance: FloatArray
    reconstruction_loss: FloatArray
    """Of `pixels`, summed: binary cross-entropy, or for an autoencoder_kl half of the squared error.

    The cross-entropy of grey pixels is no negative log-density (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845).
    """
    kl_divergence: FloatArray
    """Of the posterior from N(0, I)."""
    elbo: FloatArray
    """Evidence lower bound: the mean over `draws` samples of the posterior, or the estimate from one with `draw`.

    Without either it equals `plug_in_elbo`, which is not a bound.
    """
    elbo_standard_error: FloatArray | None = None
    """Of `elbo` as a mean over `draws`, where asked for."""
    plug_in_elbo: FloatArray | None = None
    """−(reconstruction_loss + kl_divergence) of the image decoded from the mean; None where a sample was decoded."""
    z: FloatArray | None = None
    """The draw that was decoded in place of the mean, where asked for."""


@dataclass(frozen=True)
class Model:
    """What is being served, how it was trained, and what was measured of it."""

    name: str
    architecture: str
    image_shape: tuple[int, int, int]
    """C, H, W."""
    latent_shape: tuple[int, ...]
    """(D,), or (C', h, w) where latents are maps."""
    latent_dim: int | None
    """D; None where latents are maps."""
    parameters: int
    sha256: str
    """Of the checkpoint's bytes."""
    format_version: int
    training: dict[str, Any]
    figures: dict[str, Any]
    """Losses in nats per image."""


def _picture(image: FloatArray) -> Image:
    """(C, H, W) in [0, 1] → a picture."""
    from PIL import Image  # noqa: PLC0415

    levels = np.rint(image * 255).astype(np.uint8)
    return Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
