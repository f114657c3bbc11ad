"""How a score is distributed over images that the model should find usual. Does not import torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

SCORES = ("neg_elbo", "neg_importance_weighted_bound", "reconstruction_loss", "kl_divergence", "outlier_factor")
"""Scores that are higher for unusual images: in nats, but for the outlier factor, which has no unit."""
LEVEL = 0.99
"""Default percentile above which an image is anomalous: one in a hundred usual images is."""
LEVELS = (
    *(step / 100 for step in range(100)),
    *(step / 1000 for step in range(991, 1000)),
    *(step / 10_000 for step in range(9991, 10_000)),
    1.0,
)
"""Levels of the quantiles: closer together in the upper tail, where thresholds lie."""


@dataclass(frozen=True)
class Calibration:
    """Quantiles of a score over validation images, and how the score is computed."""

    score: str
    """One of SCORES."""
    draws: int
    """Posterior samples per image of the ELBO."""
    samples: int
    """Importance samples per image; 0 where the score needs none."""
    seed: int
    """Seed of the noise of both."""
    images: int
    """Number of validation images."""
    levels: tuple[float, ...]
    """Shares of the images, ascending from 0 to 1."""
    quantiles: tuple[float, ...]
    """The score that each share of the images does not exceed."""
    highest_loss: float
    """Highest reconstruction loss of these images, nats."""

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"the score {self.score!r} is not known; this release knows {', '.join(SCORES)}")
        counts = (self.draws - 2, self.samples, self.seed, self.images - 1)
        if any(type(count) is not int or count < 0 for count in counts):
            raise ValueError("draws, samples, seed and images must be whole numbers, draws 2 or more, images 1 or more")
        for name in ("levels", "quantiles"):
            values = np.array(getattr(self, name), np.float64)
            if values.shape != (len(self.levels),) or not np.isfinite(values).all() or (np.diff(values) < 0).any():
                raise ValueError(f"{name} must be ascending numbers, as many as there are levels")
        if type(self.highest_loss) is not float or not isfinite(self.highest_loss):
            raise ValueError("highest_loss must be a finite number")

    @classmethod
    def of(
        cls, scores: FloatArray, losses: FloatArray, score: str, *, draws: int, samples: int, seed: int
    ) -> Calibration:
        """Return the quantiles of the scores (N,) of N ≥ 1 images, and the highest of their losses (N,)."""
        quantiles = np.quantile(scores.astype(np.float64), LEVELS)
        return cls(score, draws, samples, seed, len(scores), LEVELS, tuple(quantiles.tolist()), losses.max().item())

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Calibration:
        """Read the fields as JSON values; raises ValueError where they are damaged or of a later release."""
        if document.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"it must have the fields {', '.join(field.name for field in fields(cls))}")
        numbers = {name: tuple(document[name]) for name in ("levels", "quantiles")}
        return cls(**{**document, **numbers})

    @property
    def needs_references(self) -> bool:
        """Whether the score is computed from the checkpoint's references."""
        return self.score == "outlier_factor"

    def applies(self, names: Collection[str], samples: int) -> bool:
        """Return whether the calibrated score is among values of these names, as of `vae.score.Scores`.

        The bound depends on the number of importance `samples`, which has to be that of the calibration.
        """
        return self.score.removeprefix("neg_") in names and self.samples in (0, samples)

    def percentile(self, values: Mapping[str, FloatArray]) -> FloatArray:
        """Return the share, 0 to 1, of validation images with a lower score, interpolated: (N,).

        It is 1 for an image whose reconstruction loss is higher than that of each validation image: the encoder may
        give a usual latent to noise, which the decoder then does not reconstruct.

        `values` are N images' scores as of `vae.score.Scores`, (N,) each, to which the calibration applies.
        """
        shares = np.interp(score_of(values, self.score), self.quantiles, self.levels)
        shares[values["reconstruction_loss"] > self.highest_loss] = 1
        return shares.astype(np.float32)


def score_of(values: Mapping[str, FloatArray], score: str) -> FloatArray:
    """Return one of SCORES from values as of `vae.score.Scores`: `neg_elbo` is −`elbo`."""
    return values[score] if score in values else -values[score.removeprefix("neg_")]
