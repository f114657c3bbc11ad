"""What the routes of all protocols know of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from service.api.offloading import VALUE_S
from service.api.request import Request
from service.formats.arrays import Array
from service.inference.engine import Engine
from service.limits import Limits
from service.models.registry import Model, Registry
from service.telemetry.counters import Counters
from vae.calibration import Calibration
from vae.metadata import Fit
from vae.outliers import References

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ModelContext:
    """A model that is loaded, and what belongs to it."""

    name: str
    version: str
    sha256: str
    """Hash of the checkpoint."""
    engine: Engine
    fit: Fit
    """How pictures of another shape are fitted to the model's, unless the request says."""
    limits: Limits
    calibration: Calibration | None
    references: References | None
    model_json: bytes
    latents: Mapping[str, Array] | None
    """Latents of the test set: `mean` (M, D) and `label` (M,)."""
    latents_json: bytes | None
    """`latents` as JSON."""
    counters: Counters
    info: Mapping[str, str]
    """Labels of vae_model_info."""
    digest: bytes
    """Hash of what responses depend on beside the request."""

    @property
    def samples(self) -> int:
        """Importance samples of a score that does not name a number."""
        return self.calibration.samples if self.calibration else 0

    def close(self) -> None:
        """End the threads of its engine."""
        self.engine.close()


ServedModel: TypeAlias = Model[ModelContext]
Models: TypeAlias = Registry[ModelContext]


def model_context(request: Request) -> ModelContext:
    """Return the context of the model that was chosen for `request` when it was let in."""
    context: ModelContext = request.scope["model_context"]
    return context


async def count_distances(request: Request, context: ModelContext, z: FloatArray) -> None:
    """Add the distances of latents (N, …) from the prior's mean to their histogram."""
    histogram = context.counters.histogram("vae_latent_distance")
    if len(z) == 1 and z.ndim == 2:
        histogram.add(hypot(*z[0].tolist()))
    else:
        histogram.add_all(await request.run(z.size * VALUE_S, _distances, z))


def _distances(z: FloatArray) -> list[float]:
    distances: list[float] = np.linalg.norm(z.reshape(len(z), -1), axis=1).tolist()
    return distances
