"""A checkpoint as the service needs it where it does without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.formats.arrays import Array
from vae.config import VAEConfig
from vae.metadata import CheckpointMetadata

FloatArray = npt.NDArray[np.float32]


class UnsupportedModel(Exception):
    """Why ONNX Runtime cannot compute a network, as what follows a colon."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What is kept of a checkpoint beside its network."""

    provenance: CheckpointMetadata
    parameters: int
    """Their number."""
    latents: Mapping[str, Array] | None
    """Of the test set, where they lie beside it: `mean` (M, D) and `label` (M,)."""


@dataclass(frozen=True)
class OnnxModel:
    """A network as ONNX models of one input `x`, in rows, and what torch makes of a few."""

    config: VAEConfig
    encoder: bytes
    """(N, C·H·W) → `mean` and `log_variance`, (N, D)."""
    decoder: bytes
    """(N, D) → `image` and `logits`, (N, C·H·W)."""
    probe: Mapping[str, FloatArray]
    """`images` and latents `z`; of those `mean` and `log_variance`, of these `image`."""
