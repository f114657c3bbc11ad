"""Query parameters and the JSON of requests, as pydantic validates them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, TypeAdapter, WithJsonSchema

from vae.calibration import LEVEL
from vae.metadata import DEFAULT_FIT, Fit
from vae.noise import DRAWS, SEED, SEED_LIMIT

LATENT_BOUND = 1e6
"""Largest absolute value of a latent; N(0, I) has none near it, and much larger ones overflow float32."""
Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-LATENT_BOUND, le=LATENT_BOUND, strict=True)]
FiniteVector = Annotated[list[Coordinate], FailFast()]
"""Validation stops at the first wrong number, of which there may be a million."""


def _split(text: object) -> object:
    return text.split(",") if isinstance(text, str) else text


QueryVector = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False, ge=-LATENT_BOUND, le=LATENT_BOUND)]],
    FailFast(),
    BeforeValidator(_split),
    WithJsonSchema({"type": "string", "examples": ["0.1,-0.2,0.3"]}),
]
"""A latent (D,) in a query: numbers separated by commas."""
QueryDimensions = Annotated[
    list[Annotated[int, Field(ge=0)]],
    Field(min_length=1, max_length=2),
    BeforeValidator(_split),
    WithJsonSchema({"type": "string", "examples": ["0,1"]}),
]


@lru_cache
def latents_check(shape: tuple[int, ...]) -> Callable[[object], object]:
    """Return a function that raises ValidationError for anything but a list of latents of `shape`."""
    latent: Any = Coordinate
    for length in reversed(shape):
        latent = Annotated[list[latent], Field(min_length=length, max_length=length), FailFast()]
    check: Callable[[object], object] = TypeAdapter(Annotated[list[latent], FailFast()]).validator.validate_python
    return check


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoOptions(_Options):
    """Query of routes without parameters."""


class PngOptions(_Options):
    """Query of the routes that give a PNG."""

    columns: int | None = Field(
        None, ge=1, le=10_000, description="Images per row of the PNG; by default the grid is as square as possible."
    )
    scale: int = Field(1, ge=1, le=64, description="Enlarge each pixel of the PNG to a square with this side.")


class VideoOptions(PngOptions):
    """Query of the routes that give a PNG, or the file of a video."""

    fps: float | None = Field(
        None,
        ge=1,
        le=240,
        allow_inf_nan=False,
        description="Frames per second of a video; by default those of the model's videos, which /model has.",
    )


class SampleOptions(VideoOptions):
    """Query of /sample."""

    n: int = Field(1, ge=1, description="Number of images.")
    seed: int | None = Field(
        None, ge=0, lt=2**64, description="Seed of the random numbers; by default a random one, returned as x-seed."
    )
    frames: int | None = Field(
        None, ge=1, le=100_000, description="Frames of each video; by default those of the model's nominal shape."
    )
    temperature: float = Field(
        1,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Standard deviation of the prior from which latents are drawn.",
    )


class InterpolateOptions(PngOptions):
    """Query of GET /interpolate."""

    start: QueryVector = Field(alias="from", description="Latent to begin at: D numbers, separated by commas.")
    stop: QueryVector = Field(alias="to", description="Latent to end at: D numbers, separated by commas.")
    steps: int = Field(8, ge=2, description="Number of images, including both ends.")
    method: Literal["linear", "spherical"] = Field("linear", description="On a straight line, or along the great arc.")


class TraverseOptions(PngOptions):
    """Query of GET /traverse."""

    at: QueryVector = Field(description="Latent whose dimensions are varied: D numbers, separated by commas.")
    dimensions: QueryDimensions = Field(
        description="One dimension to vary (a row), or two, separated by a comma (a grid)."
    )
    low: float = Field(
        -3, allow_inf_nan=False, ge=-LATENT_BOUND, le=LATENT_BOUND, description="First value of a varied dimension."
    )
    high: float = Field(3, allow_inf_nan=False, ge=-LATENT_BOUND, le=LATENT_BOUND, description="Its last value.")
    steps: int = Field(15, ge=2, description="Values per dimension, including both ends.")


class PictureInput(_Options):
    """Query of the routes that take pictures."""

    fit: Fit | None = Field(
        None,
        description="How a picture of another shape is fitted to the model's: with black bars, cropped, or distorted. "
        f"The default is `training.pictures.fit` of /model, or else {DEFAULT_FIT}.",
    )
    invert: bool = Field(
        False, description="Invert a picture, such as dark ink on white paper, for a model of light ink on black."
    )


class _ImageInput(PictureInput):
    draw: bool = Field(
        False, description="Draw a sample of the posterior, in addition to the mean (encode) or instead of it."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**64, description="Seed of the random numbers; by default a random one, returned as x-seed."
    )


class EncodeOptions(_ImageInput):
    """Query of /encode."""


class ReconstructOptions(VideoOptions, _ImageInput):
    """Query of /reconstruct."""

    draws: int | None = Field(
        None,
        ge=2,
        description="Estimate the ELBO as the mean over this number of samples of the posterior, each decoded. They "
        "count towards the limits of a batch. PNG and npy have no losses.",
    )


class ScoreOptions(PngOptions, PictureInput):
    """Query of /score."""

    draws: int = Field(
        DRAWS,
        ge=2,
        description="Samples of the posterior, each decoded, over which the ELBO is the mean. As `samples` they count "
        "towards the limits of a batch.",
    )
    samples: int | None = Field(
        None,
        ge=0,
        description="Importance samples of the importance-weighted bound, of which the first are the draws; 0 leaves "
        "it out. By default those of the calibration, 0 for most.",
    )
    seed: int = Field(
        SEED,
        ge=0,
        lt=SEED_LIMIT,
        description="Seed of the samples. Those of an image depend on it and on the image's pixels alone.",
    )
    level: float = Field(LEVEL, ge=0, le=1, description="Percentile above which an image is anomalous.")
    map: bool = Field(
        False,
        description="Give the loss per pixel: as a PNG, each image scaled from its lowest loss, black, to its highest, "
        "white; or as the array `pixel_losses`, which npy holds alone.",
    )


class _Path(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    steps: int = Field(8, ge=2, strict=True, description="Number of images, including both ends.")
    method: Literal["linear", "spherical"] = "linear"


class Interpolation(_Path):
    """Body of /interpolate for latents that are vectors."""

    start: FiniteVector = Field(alias="from", description="Latent to begin at, [D].")
    stop: FiniteVector = Field(alias="to", description="Latent to end at, [D].")


class MapInterpolation(_Path):
    """Body of /interpolate for latents that are maps."""

    start: list[list[FiniteVector]] = Field(alias="from", description="Latent to begin at, [C'][h][w].")
    stop: list[list[FiniteVector]] = Field(alias="to", description="Latent to end at, [C'][h][w].")


class Traversal(BaseModel):
    """Body of /traverse."""

    model_config = ConfigDict(extra="forbid")

    at: FiniteVector = Field(description="Latent whose dimensions are varied, [D].")
    dimensions: list[Annotated[int, Field(ge=0, strict=True)]] = Field(
        min_length=1,
        max_length=2,
        description="One dimension to vary (a row), or two (a grid: the first from left to right, the second from top "
        "to bottom).",
    )
    low: float = Field(-3, allow_inf_nan=False, ge=-LATENT_BOUND, le=LATENT_BOUND, strict=True)
    high: float = Field(3, allow_inf_nan=False, ge=-LATENT_BOUND, le=LATENT_BOUND, strict=True)
    steps: int = Field(15, ge=2, strict=True, description="Values per dimension, including both ends.")
