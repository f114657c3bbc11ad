"""A checkpoint's model and description without torch."""

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
    """ONNX Runtime cannot compute a model; the message says why, to be put after a colon."""


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint without its model."""

    metadata: CheckpointMetadata
    parameters: int
    """Number of the model's weights."""
    latents: Mapping[str, Array] | None
    """Latents of the test set, if there are any beside the checkpoint: `mean` (M, D) and `label` (M,)."""


@dataclass(frozen=True)
class OnnxModel:
    """A model as two ONNX models with one input `x`, and what torch computes for some inputs."""

    config: VAEConfig
    encoder: bytes
    """(N, C·H·W) → `mean` and `log_variance`, (N, D)."""
    decoder: bytes
    """(N, D) → `image` and `logits`, (N, C·H·W)."""
    probe: Mapping[str, FloatArray]
    """Inputs `images` and `z`, and torch's outputs: `mean` and `log_variance` of `images`, `image` of `z`."""
