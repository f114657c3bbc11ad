"""What the handlers of a model's routes work with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot

import numpy as np
import numpy.typing as npt

from service.api.offloading import VALUE_S
from service.api.request import Request
from service.formats.arrays import Array
from service.inference.engine import Engine
from service.limits import Limits
from service.telemetry.prometheus import Metrics
from vae.metadata import Fit

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ModelContext:
    """What the handlers work with, there once the service has started."""

    name: str
    engine: Engine
    fit: Fit
    """How pictures of another shape are brought to the model's, where a caller does not say."""
    limits: Limits
    model_json: bytes
    latents: Mapping[str, Array] | None
    """Of the test set: `mean` (M, D) and `label` (M,)."""
    latents_json: bytes | None
    """The same, written."""
    metrics: Metrics
    metrics_need_key: bool


async def count_distances(request: Request, loaded: ModelContext, z: FloatArray) -> None:
    """Count how far latents (N, …) lie from the prior's mean."""
    histogram = loaded.metrics.counters.histogram("vae_latent_distance")
    if len(z) == 1 and z.ndim == 2:
        histogram.add(hypot(*z[0].tolist()))
    else:
        histogram.add_all(await request.run(z.size * VALUE_S, _distances, z))


def _distances(z: FloatArray) -> list[float]:
    distances: list[float] = np.linalg.norm(z.reshape(len(z), -1), axis=1).tolist()
    return distances
