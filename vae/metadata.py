"""What a checkpoint says about its model, and the error of a bad checkpoint. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from vae.calibration import Calibration
from vae.outliers import References

Fit = Literal["contain", "cover", "stretch"]
"""How a picture is brought to the model's height and width: padded with black, cropped to its centre, or distorted."""
DEFAULT_FIT: Fit = "contain"


class CheckpointError(Exception):
    """A checkpoint is missing, damaged or not one of ours; the message is one sentence that says what is wrong."""


def fit_of(training: Mapping[str, Any]) -> Fit:
    """Return how the training pictures were prepared: `pictures.fit` of `training`, by default DEFAULT_FIT.

    Raises:
        CheckpointError: This release does not know the fit.

    """
    pictures = training.get("pictures", {})
    fit = pictures.get("fit", DEFAULT_FIT) if isinstance(pictures, dict) else None
    if fit not in get_args(Fit):
        known = ", ".join(get_args(Fit))
        raise CheckpointError(f"its pictures were prepared with the fit {fit!r}; this release knows {known}.")
    return cast("Fit", fit)


@dataclass(frozen=True)
class CheckpointMetadata:
    """The name, training and metrics of a loaded model."""

    name: str
    """The file's name without its extension, or the folder's name."""
    format_version: int
    """0 for checkpoints of others: the article's .pt, or a diffusers folder."""
    training: dict[str, Any]
    """How the model was trained, as JSON values; empty where unknown."""
    metrics: dict[str, float]
    """What was measured after the training; losses in nats per image. The file's key is `figures`."""
    sha256: str
    """Of the file with the weights, in hexadecimal."""
    calibration: Calibration | None = field(default=None, kw_only=True)
    """How the score of its validation images is distributed; None where it was not measured."""
    references: References | None = field(default=None, kw_only=True)
    """Latents of training images, which outlier factors are computed from; None where it has none."""

    @property
    def fit(self) -> Fit:
        """How pictures of another shape are brought to the model's, by default."""
        return fit_of(self.training)
