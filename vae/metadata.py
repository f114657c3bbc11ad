"""Where a checkpoint comes from, and what is wrong with one. No torch: who only passes this on need not import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

Fit = Literal["contain", "cover", "stretch"]
"""How a picture is brought to the model's height and width: with black bars, cropped to its middle, or distorted."""
DEFAULT_FIT: Fit = "contain"


class CheckpointError(Exception):
    """A file that is not a checkpoint of ours; the message is one sentence that says what is wrong with it."""


def fit_of(training: Mapping[str, Any]) -> Fit:
    """How the pictures of a training were prepared: its `pictures.fit`, or DEFAULT_FIT where it says nothing.

    Raises CheckpointError for a fit that this release does not know.
    """
    pictures = training.get("pictures", {})
    fit = pictures.get("fit", DEFAULT_FIT) if isinstance(pictures, dict) else None
    if fit not in get_args(Fit):
        raise CheckpointError(f"its pictures were prepared by {fit!r}; one of {', '.join(get_args(Fit))} is wanted.")
    return cast("Fit", fit)


@dataclass(frozen=True)
class CheckpointMetadata:
    """Where a loaded model comes from."""

    name: str
    format_version: int
    training: dict[str, Any]
    metrics: dict[str, float]
    sha256: str
    """Of the bytes of the file with the weights, hexadecimal."""

    @property
    def fit(self) -> Fit:
        """How pictures of another shape are brought to the model's, where a caller does not say."""
        return fit_of(self.training)
