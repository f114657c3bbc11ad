"""The latents of a data set under one checkpoint, stored in a file beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from vae.files import write_atomically
from vae.metadata import CheckpointError


@dataclass(frozen=True)
class LatentSet:
    """Means of q(z|x), (M, D) float32, and the labels of their images, (M,) int64."""

    mean: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]

    @staticmethod
    def path_beside(checkpoint: Path) -> Path:
        """Return where the latents of `checkpoint` are: `mnist.safetensors` → `mnist.latents.safetensors`."""
        return checkpoint.with_suffix(".latents.safetensors")

    def save(self, checkpoint: Path, sha256: str) -> None:
        """Write the latents beside `checkpoint`, atomically.

        Args:
            checkpoint: Path of the checkpoint.
            sha256: Hash of the checkpoint's file, in hexadecimal; `load` compares it.

        Raises:
            OSError: The file cannot be written.

        """
        tensors: dict[str, npt.NDArray[Any]] = {
            "mean": np.ascontiguousarray(self.mean),
            "label": np.ascontiguousarray(self.label),
        }
        write_atomically(self.path_beside(checkpoint), serialize(tensors, {"checkpoint_sha256": sha256}))

    @classmethod
    def load(cls, checkpoint: Path, sha256: str) -> LatentSet | None:
        """Read the latents beside `checkpoint`.

        Args:
            checkpoint: Path of the checkpoint: a file, or a diffusers folder, which never has such latents.
            sha256: Hash of the checkpoint's file, in hexadecimal.

        Returns:
            The latents, or None where no file lies beside the checkpoint.

        Raises:
            CheckpointError: The file cannot be read, or was computed with another checkpoint.

        """
        if checkpoint.is_dir() or not (path := cls.path_beside(checkpoint)).exists():
            return None
        try:
            with safe_open(path, framework="np") as file:
                belongs_to = (file.metadata() or {}).get("checkpoint_sha256")
                latents = cls(mean=file.get_tensor("mean"), label=file.get_tensor("label"))
        except (SafetensorError, OSError, AttributeError) as error:  # AttributeError for a dtype that NumPy lacks
            raise CheckpointError(f"The latents {path} cannot be read ({error}); remove the file.") from error
        if belongs_to != sha256:
            raise CheckpointError(f"The latents {path} were computed with another checkpoint; remove the file.")
        dtypes = latents.mean.dtype.name, latents.label.dtype.name
        if dtypes != ("float32", "int64") or latents.mean.ndim != 2 or latents.label.shape != latents.mean.shape[:1]:
            raise CheckpointError(f"The latents {path} have wrong shapes or dtypes; remove the file.")
        return latents
