"""Results of the client's methods: NumPy arrays, which can be converted to tensors, pictures and files.

`L` stands for the model's latent shape: (D,), or (C', h, w) where latents are maps. One image or latent gives a result
without the axis N, a batch of N one with it. All arrays except labels are float32; losses are in nats.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, fields
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from vae_client.optional import needs

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """Named arrays."""

    seed: int | None = None
    """Seed of the random numbers: with it the same call gives the same result. None if none were drawn."""

    def to_torch(self) -> dict[str, torch.Tensor]:
        """Return the arrays as tensors that share their memory."""
        with needs("torch", "to_torch()", "torch"):
            import torch  # noqa: PLC0415

        return {name: torch.from_numpy(array) for name, array in self._arrays().items()}

    def to_npz(self) -> bytes:
        """Return the content of an .npz file of the arrays."""
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **self._arrays())
        return stream.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file of the arrays.

        Raises:
            ValueError: `path` does not end in .npz.
            OSError: The file cannot be written.

        """
        if Path(path).suffix.lower() != ".npz":
            raise ValueError(f"{path} does not end in .npz, the format in which arrays are saved.")
        Path(path).write_bytes(self.to_npz())

    def _arrays(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Posterior(Result):
    """q(z|x) = N(mean, exp(log_variance)); all arrays are L or (N, *L)."""

    mean: FloatArray
    log_variance: FloatArray
    z: FloatArray | None = None
    """A sample of the posterior, with `draw=True`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Images(Result):
    """One image or a batch."""

    pixels: FloatArray
    """(C, H, W) or (N, C, H, W) in [0, 1]."""

    def to_pil(self) -> list[Image]:
        """Return a PIL image of mode L or RGB for each image."""
        return [_picture(image) for image in self._batch()]

    def to_png(self) -> bytes:
        """Return the content of one PNG: the image, or a nearly square grid of the batch, in row-major order."""
        stream = io.BytesIO()
        self._grid().save(stream, "PNG")
        return stream.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file of the arrays, or a picture as of `to_png` in any format of Pillow.

        Args:
            path: The file; its extension selects the format.

        Raises:
            ValueError: Pillow does not know the extension.
            OSError: The file cannot be written, or cannot hold such a picture.

        """
        if Path(path).suffix.lower() == ".npz":
            super().save(path)
        else:
            self._grid().save(path)

    def _batch(self) -> FloatArray:
        return self.pixels.reshape(-1, *self.pixels.shape[-3:])

    def _grid(self) -> Image:
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
    """Encoded and decoded images, with their posterior and losses; losses are () or (N,)."""

    mean: FloatArray
    log_variance: FloatArray
    reconstruction_loss: FloatArray
    """−log p(x|z), summed over pixels, of the model's `likelihood`; half of the squared error for models of diffusers.

    That of a Bernoulli likelihood, the binary cross-entropy, is not a negative log-density of grey pixels (Loaiza-Ganem
    & Cunningham 2019, arXiv:1907.06845).
    """
    kl_divergence: FloatArray
    """From the posterior to the prior N(0, I)."""
    elbo: FloatArray
    """Evidence lower bound: the mean over `draws` samples of the posterior, or with `draw=True` one sample's estimate.

    Without either it equals `plug_in_elbo`, which is not a bound.
    """
    elbo_standard_error: FloatArray | None = None
    """Of `elbo`, with `draws`."""
    plug_in_elbo: FloatArray | None = None
    """−(reconstruction_loss + kl_divergence) of the image decoded from the mean; None with `draw=True`."""
    z: FloatArray | None = None
    """The sample that was decoded instead of the mean, with `draw=True`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores(Result):
    """How unusual images are for the model: () or (N,) each.

    An unusual image has a low ELBO, high losses, and a high outlier factor.
    """

    elbo: FloatArray
    """Evidence lower bound: the mean over `draws` samples of the posterior."""
    elbo_standard_error: FloatArray
    """Of `elbo`, over the draws."""
    reconstruction_loss: FloatArray
    """As of `Reconstruction`, of the image decoded from the posterior's mean."""
    kl_divergence: FloatArray
    """From the posterior to the prior N(0, I)."""
    importance_weighted_bound: FloatArray | None = None
    """A lower bound of log p(x), tighter than the ELBO; None without `samples`."""
    outlier_factor: FloatArray | None = None
    """Distance of the posterior's mean to its nearest among latents of training images, against theirs; no unit.

    None where the checkpoint has no such latents.
    """
    percentile: FloatArray | None = None
    """Share, 0 to 1, of validation images whose score was lower.

    None where the checkpoint has no calibration (see `Model.calibration`), or `samples` differ from its.
    """
    anomalous: npt.NDArray[np.bool_] | None = None
    """Whether `percentile` is above `level`."""
    pixel_losses: FloatArray | None = None
    """Where the reconstruction loss comes from: summed over channels, (1, H, W) or (N, 1, H, W)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Latents(Result):
    """Latents of the images of a test set, and their classes."""

    mean: FloatArray
    """Posterior means, (N, D)."""
    label: npt.NDArray[np.int64]
    """Class of each image, (N,)."""


@dataclass(frozen=True)
class Health:
    """Whether the service accepts requests."""

    status: Literal["ok", "starting", "draining"]
    """`ok` if it does; `draining` if it is shutting down."""


@dataclass(frozen=True)
class Model:
    """The model that the service has loaded."""

    name: str
    """Name of its file or folder."""
    architecture: str
    """`mlp`, `conv` or `resnet`, or the name of a class of diffusers."""
    image_shape: tuple[int, ...]
    """(C, H, W), or (C, T, H, W) of videos."""
    latent_shape: tuple[int, ...]
    """(D,), or (C', h, w) where latents are maps, or (C', t, h, w) of videos."""
    latent_dim: int | None
    """D; None where latents are maps."""
    parameters: int
    """Number of its weights."""
    sha256: str
    """Of the file with the weights, in hexadecimal."""
    format_version: int
    """Of the checkpoint; 0 for checkpoints of others."""
    training: dict[str, Any]
    """How it was trained."""
    figures: dict[str, Any]
    """What was measured; losses in nats per image."""
    likelihood: str = "bernoulli"
    """p(x|z): `bernoulli`, the only one of older services, `continuous-bernoulli`, `gaussian` or `logistic`."""
    calibration: dict[str, Any] | None = None
    """The score by which `Scores.percentile` goes, how it is computed, and over how many images; None without one."""
    stride: int | None = None
    """Pixels per latent position, along height and width. This and the next two are None unless the model is an
    autoencoder of a diffusion model."""
    temporal_stride: int | None = None
    """Frames per latent frame after the first; 1 for images."""
    frame_rate: int | None = None
    """Frames per second of video files where a request gives none; None for images."""
    normalisation: dict[str, Any] | None = None
    """A diffusion model's latents are (z − mean)·scale, per channel, of the latents z; `patch_size` is of Flux 2."""
    dtype: str = "float32"
    """What the network computes in: `float32`, `bfloat16` or `float16`."""


def _picture(image: FloatArray) -> Image:
    """Convert (C, H, W) in [0, 1] to a PIL image."""
    with needs("Pillow", "A picture", "pillow"):
        from PIL import Image  # noqa: PLC0415

    levels = np.rint(image * 255).astype(np.uint8)
    return Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
