"""A checkpoint as it is served without torch."""

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
    """ONNX Runtime does not support a network; the message is a clause without capital and full stop."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What the service knows of a checkpoint, apart from its network."""

    metadata: CheckpointMetadata
    parameters: int
    """Number of parameters."""
    latents: Mapping[str, Array] | None
    """Latents of the test set, if they are stored beside it: `mean` (M, D) and `label` (M,)."""


@dataclass(frozen=True)
class OnnxModel:
    """A network as ONNX models with one input `x` of rows, and results of torch to verify them."""

    config: VAEConfig
    encoder: bytes
    """(N, C·H·W) → `mean` and `log_variance`, (N, D)."""
    decoder: bytes
    """(N, D) → `image` and `logits`, (N, C·H·W)."""
    probe: Mapping[str, FloatArray]
    """Inputs `images` and `z`, and results of torch: `mean` and `log_variance` of the images, `image` of z."""
