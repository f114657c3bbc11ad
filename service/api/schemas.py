"""Query parameters, and the JSON of requests and responses."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter

from vae.metadata import DEFAULT_FIT, Fit

Vector = list[float]
Latent = Vector | list[list[Vector]]
"""[D], or [C'][h][w] where latents are maps."""
Pixels = list[list[list[float]]]
"""[C][H][W], each in [0, 1]."""

LATENT_BOUND = 1e6
"""Largest absolute value of a latent; N(0, I) has none near it, and much larger ones overflow float32."""
Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-LATENT_BOUND, le=LATENT_BOUND, strict=True)]
FiniteVector = Annotated[list[Coordinate], FailFast()]
"""Validation stops at the first wrong number, of which there may be a million."""


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


class SampleOptions(PngOptions):
    """Query of /sample."""

    n: int = Field(1, ge=1, description="Number of images.")
    seed: int | None = Field(
        None, ge=0, lt=2**64, description="Seed of the random numbers; by default a random one, returned as x-seed."
    )
    temperature: float = Field(
        1,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Standard deviation of the prior from which latents are drawn.",
    )


class _ImageInput(_Options):
    fit: Fit | None = Field(
        None,
        description="How a picture of another shape is fitted to the model's: with black bars, cropped, or distorted. "
        f"The default is `training.pictures.fit` of /model, or else {DEFAULT_FIT}.",
    )
    invert: bool = Field(
        False, description="Invert a picture, such as dark ink on white paper, for a model of light ink on black."
    )
    draw: bool = Field(
        False, description="Draw a sample of the posterior, in addition to the mean (encode) or instead of it."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**64, description="Seed of the random numbers; by default a random one, returned as x-seed."
    )


class EncodeOptions(_ImageInput):
    """Query of /encode."""


class ReconstructOptions(PngOptions, _ImageInput):
    """Query of /reconstruct."""

    draws: int | None = Field(
        None,
        ge=2,
        description="Estimate the ELBO as the mean over this number of samples of the posterior, each decoded. They "
        "count towards the limits of a batch. PNG and npy have no losses.",
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


class Latents(BaseModel):
    """Body of /decode, unless it is a bare list."""

    z: Latent | list[Latent]


class Posterior(BaseModel):
    """Response of /encode: a latent each, or N for a batch."""

    mean: Latent | list[Latent]
    log_variance: Latent | list[Latent]
    z: Latent | list[Latent] | None = Field(None, description="With draw=true: a sample of the posterior.")


class Images(BaseModel):
    """Response of /decode: [C][H][W], or [N][C][H][W] for a batch."""

    pixels: Pixels | list[Pixels]


class ReconstructionAnswer(Posterior, Images):
    """Response of /reconstruct; losses in nats, a list each for a batch."""

    reconstruction_loss: float | Vector = Field(
        description="Binary cross-entropy of `pixels`, summed over pixels. It treats grey values as probabilities and "
        "is not a negative log-density of the image (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845); for "
        "autoencoder_kl it is half of the squared error: −log p(x|z) of a Gaussian of variance 1, without its constant."
    )
    kl_divergence: float | Vector = Field(description="KL divergence of the posterior from N(0, I), exact.")
    plug_in_elbo: float | Vector | None = Field(
        None,
        description="−(reconstruction_loss + kl_divergence) of the image decoded from the posterior mean: not a lower "
        "bound, and usually above the ELBO. Absent with draw=true.",
    )
    elbo: float | Vector = Field(
        description="With draws=K the evidence lower bound, as the mean over K samples of the posterior; with "
        "draw=true its estimate from one sample. With neither it equals plug_in_elbo, for compatibility."
    )
    elbo_standard_error: float | Vector | None = Field(
        None, description="With draws=K: standard error of the estimate `elbo` over the samples."
    )


class Walk(BaseModel):
    """Response of /interpolate and /traverse."""

    z: list[Latent]
    pixels: list[Pixels]


class Samples(Walk):
    """Response of /sample."""

    seed: int


class TestLatents(BaseModel):
    """Response of /latents."""

    mean: list[Vector]
    label: list[int]


class ModelCard(BaseModel):
    """Response of /model."""

    name: str
    architecture: str
    image_shape: list[int] = Field(min_length=3, max_length=3, description="C, H, W")
    latent_shape: tuple[int, ...] = Field(description="[D], or [C', h, w] where latents are maps.")
    latent_dim: int | None = Field(description="D, or null where latents are maps.")
    parameters: int
    sha256: str = Field(description="Hash of the checkpoint's bytes.")
    format_version: int
    training: dict[str, object] = Field(
        description="Configuration of the training; `pictures.fit`: how pictures were fitted."
    )
    figures: dict[str, object] = Field(
        description="Metrics by vae-train evaluate; losses in nats per image. Under a Bernoulli decoder those of grey "
        "pixels compare models on the same images, and are not negative log-densities."
    )


class Status(BaseModel):
    """Response of the probes."""

    status: Literal["ok", "starting", "draining"]


class FieldProblem(BaseModel):
    """A wrong field."""

    location: Literal["body", "query", "path", "header"] = Field(alias="in")
    pointer: str = Field(description="RFC 6901 pointer to the field.")
    detail: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None
