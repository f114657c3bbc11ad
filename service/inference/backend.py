"""What computes a model's encoder and decoder: on a CPU ONNX Runtime, which is faster there than torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from service.inference.compute_memory import ComputeMemory
from vae.config import VAEConfig
from vae.diffusion.config import DiffusionConfig

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
Arrays = tuple[npt.NDArray[Any], ...]
"""Arrays of one length N, the rows of a batch."""

DTYPES = ("float16", "bfloat16", "float32")
"""dtypes of the tensors in requests and responses, by torch's names."""


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return one of DTYPES as NumPy's dtype; that of bfloat16 is of ml_dtypes, which takes 3 MB once it is imported."""
    if name == "bfloat16":
        import ml_dtypes  # noqa: PLC0415 - few ask for it

        name = ml_dtypes.bfloat16
    return np.dtype(name)


class Backend(Protocol):
    """A model's computation. Arrays are float32: images (N, C, H, W) in [0, 1], latents (N, …) of the model's shape.

    Returned images may have their channels last in memory.
    """

    max_concurrent_batches: int
    """Batches that are best computed at the same time, each in a thread."""
    memory: ComputeMemory | None
    """What is computed whole, in tiles, or not at all, where images may be of any size; it is then slow, too."""

    @property
    def config(self) -> VAEConfig | DiffusionConfig:
        """The model's configuration."""

    def find_row_multiple(self, limit: int) -> int:
        """Find how many rows, at most `limit`, the size of a batch should be a multiple of.

        In such batches each row's results are the same, bit for bit, whatever and however many the other rows are.
        """

    def encode(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and log-variance of q(z|x), (N, …) each."""

    def decode(self, z: FloatArray) -> FloatArray:
        """Images, (N, C, H, W) in [0, 1]."""

    def reconstruct(self, z: FloatArray, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The images of `decode`, and −log p(x|z) of `images`, (N,), nats."""

    def pixel_losses(self, z: FloatArray, images: FloatArray) -> FloatArray:
        """The loss of `reconstruct` per pixel of `images`, summed over channels: (N, 1, H, W), nats."""

    def decode_raw(self, z: FloatArray, dtype: str) -> tuple[ByteArray, FloatArray]:
        """Images as diffusers has them, (N, C, H, W) about in [-1, 1], as one of DTYPES.

        Returns their bytes, (N, …), and the sum of each image, (N,), which is finite where all of its values are.
        """

    def begin_thread(self) -> None:
        """Prepare a thread of the engine; called there before its first batch."""


class VideoBackend(Backend, Protocol):
    """A backend of videos (N, C, T, H, W)."""

    def decode_pieces(self, z: FloatArray, take: Callable[[FloatArray], None]) -> None:
        """Decode one video and give its frames, (1, C, t, H, W) in [0, 1], to `take` as soon as they are computed.

        What `take` raises ends the computation.
        """
