"""The JSON and the query parameters that go in, and the JSON that comes out."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter

from vae.metadata import DEFAULT_FIT, Fit

Vector = list[float]
Latent = Vector | list[list[Vector]]
"""[D], or [C'][h][w] where the model's latents are maps."""
Pixels = list[list[list[float]]]
"""[C][H][W], each in [0, 1]."""

LATENT_BOUND = 1e6
"""Latents beyond ± this are refused: no latent of N(0, I) lies there, and float32 would overflow."""
Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-LATENT_BOUND, le=LATENT_BOUND, strict=True)]
FiniteVector = Annotated[list[Coordinate], FailFast()]
"""Of a million wrong numbers the first is told."""


@lru_cache
def latents_check(shape: tuple[int, ...]) -> Callable[[object], object]:
    """What raises ValidationError of anything but a list of latents of `shape`."""
    latent: Any = Coordinate
    for length in reversed(shape):
        latent = Annotated[list[latent], Field(min_length=length, max_length=length), FailFast()]
    check: Callable[[object], object] = TypeAdapter(Annotated[list[latent], FailFast()]).validator.validate_python
    return check


Seed = Annotated[
    int | None, Field(ge=0, lt=2**64, description="Makes the draw repeatable; chosen, and told, where absent.")
]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoOptions(_Options):
    """A route that takes no query parameter."""


class PngOptions(_Options):
    """Query of the routes that draw a PNG."""

    columns: int | None = Field(None, ge=1, le=10_000, description="Images in a row of the PNG; as square as can be.")
    scale: int = Field(1, ge=1, le=64, description="Enlarge each pixel of the PNG to a square of this side.")


class SampleOptions(PngOptions):
    """Query of /sample."""

    n: int = Field(1, ge=1, description="How many images to draw from the prior.")
    seed: int | None = Field(
        None, ge=0, lt=2**64, description="Makes the draw repeatable; chosen, and told, if absent."
    )
    temperature: float = Field(
        1, ge=0, le=100, allow_inf_nan=False, description="Standard deviation of the prior that is drawn from."
    )


class _ImageInput(_Options):
    fit: Fit | None = Field(
        None,
        description="How a picture of another shape is brought to the model's: with black bars, cropped, or distorted; "
        f"as `training.pictures.fit` of /model says if absent, and {DEFAULT_FIT} if that says nothing.",
    )
    invert: bool = Field(False, description="For dark ink on white paper; the model knows light ink on black.")
    draw: bool = Field(False, description="Draw a sample of the posterior too (encode) or in place of the mean.")
    seed: int | None = Field(
        None, ge=0, lt=2**64, description="Makes the draw repeatable; chosen, and told, if absent."
    )


class EncodeOptions(_ImageInput):
    """Query of /encode."""


class ReconstructOptions(PngOptions, _ImageInput):
    """Query of /reconstruct."""

    draws: int | None = Field(
        None,
        ge=2,
        description="Estimate the ELBO as the mean over so many samples of the posterior, each decoded. They count "
        "against the limits of a batch; answers of PNG and npy have no losses.",
    )


class _Way(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    steps: int = Field(8, ge=2, strict=True, description="Images on the way, both ends counted.")
    method: Literal["linear", "spherical"] = "linear"


class Interpolation(_Way):
    """Body of /interpolate where latents are vectors."""

    start: FiniteVector = Field(alias="from", description="Latent to begin at, [D].")
    stop: FiniteVector = Field(alias="to", description="Latent to end at, [D].")


class MapInterpolation(_Way):
    """Body of /interpolate where latents are maps."""

    start: list[list[FiniteVector]] = Field(alias="from", description="Latent to begin at, [C'][h][w].")
    stop: list[list[FiniteVector]] = Field(alias="to", description="Latent to end at, [C'][h][w].")


class Traversal(BaseModel):
    """Body of /traverse."""

    model_config = ConfigDict(extra="forbid")

    at: FiniteVector = Field(description="Latent through which to walk, [D].")
    dimensions: list[Annotated[int, Field(ge=0, strict=True)]] = Field(
        min_length=1,
        max_length=2,
        description="One dimension to walk along (a row), or two (a grid: the first from left to right, "
        "the second from top to bottom).",
    )
    low: float = Field(-3, allow_inf_nan=False, ge=-LATENT_BOUND, le=LATENT_BOUND, strict=True)
    high: float = Field(3, allow_inf_nan=False, ge=-LATENT_BOUND, le=LATENT_BOUND, strict=True)
    steps: int = Field(15, ge=2, strict=True, description="Values per dimension, both ends counted.")


class Latents(BaseModel):
    """Body of /decode, where it is no bare array."""

    z: Latent | list[Latent]


class Posterior(BaseModel):
    """Answer of /encode: a latent each, or N for a batch."""

    mean: Latent | list[Latent]
    log_variance: Latent | list[Latent]
    z: Latent | list[Latent] | None = Field(None, description="With draw=true: a sample of the posterior.")


class Images(BaseModel):
    """Answer of /decode: [C][H][W], or [N][C][H][W] for a batch."""

    pixels: Pixels | list[Pixels]


class ReconstructionAnswer(Posterior, Images):
    """Answer of /reconstruct; losses in nats, a list each for a batch."""

    reconstruction_loss: float | Vector = Field(
        description="Of `pixels`: binary cross-entropy summed over pixels. It takes grey values for probabilities and "
        "is no negative log-density of the image (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845); for "
        "autoencoder_kl half of the squared error: −log p(x|z) of a Gaussian with unit variance, less its constant."
    )
    kl_divergence: float | Vector = Field(description="KL divergence of the posterior from N(0, I), exact.")
    plug_in_elbo: float | Vector | None = Field(
        None,
        description="−(reconstruction_loss + kl_divergence) of the image decoded from the posterior mean: no lower "
        "bound, and usually above the ELBO. Absent with draw=true.",
    )
    elbo: float | Vector = Field(
        description="With draws=K the evidence lower bound, as the mean over K samples of the posterior; with "
        "draw=true its estimate from one sample. With neither it equals plug_in_elbo, for callers of earlier versions."
    )
    elbo_standard_error: float | Vector | None = Field(
        None, description="With draws=K: standard error of `elbo` as an estimate, for the randomness of the draws."
    )


class Walk(BaseModel):
    """Answer of /interpolate and /traverse."""

    z: list[Latent]
    pixels: list[Pixels]


class Samples(Walk):
    """Answer of /sample."""

    seed: int


class TestLatents(BaseModel):
    """Answer of /latents."""

    mean: list[Vector]
    label: list[int]


class ModelCard(BaseModel):
    """Answer of /model."""

    name: str
    architecture: str
    image_shape: list[int] = Field(min_length=3, max_length=3, description="C, H, W")
    latent_shape: tuple[int, ...] = Field(description="[D], or [C', h, w] where latents are maps.")
    latent_dim: int | None = Field(description="D; null where latents are maps.")
    parameters: int
    sha256: str = Field(description="Of the checkpoint's bytes.")
    format_version: int
    training: dict[str, object] = Field(description="How it was trained; `pictures.fit`: how pictures were prepared.")
    figures: dict[str, object] = Field(
        description="What vae-train evaluate measured; losses in nats per image. Those of grey pixels under a "
        "Bernoulli decoder, neg_elbo and neg_importance_weighted_bound among them, compare models on the same images "
        "and are no negative log-densities."
    )


class Status(BaseModel):
    """Answer of the probes."""

    status: Literal["ok", "starting", "draining"]


class FieldProblem(BaseModel):
    """One bad field."""

    place: Literal["body", "query", "path", "header"] = Field(alias="in")
    pointer: str = Field(description="RFC 6901 pointer to the field.")
    detail: str


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None
