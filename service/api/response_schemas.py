"""The JSON of responses, and of latents in requests: models that nothing is validated by, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

Vector = list[float]
Latent = Vector | list[list[Vector]]
"""[D], or [C'][h][w] where latents are maps."""
Pixels = list[list[list[float]]]
"""[C][H][W], each in [0, 1]."""


class Latents(BaseModel):
    """Body of /decode, unless it is a bare list."""

    z: Latent | list[Latent]


class Posterior(BaseModel):
    """Response of /encode: the posterior of one image, or of a batch of N."""

    mean: Latent | list[Latent]
    log_variance: Latent | list[Latent]
    z: Latent | list[Latent] | None = Field(None, description="With draw=true: a sample of the posterior.")


class Images(BaseModel):
    """Response of /decode: [C][H][W], or [N][C][H][W] for a batch."""

    pixels: Pixels | list[Pixels]


class ReconstructionAnswer(Posterior, Images):
    """Response of /reconstruct; losses in nats, a list each for a batch."""

    reconstruction_loss: float | Vector = Field(
        description="−log p(x|z), summed over pixels, of the `likelihood` that /model tells. `bernoulli`: binary "
        "cross-entropy of `pixels`, which treats grey values as probabilities and is not a negative log-density of the "
        "image (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845). `continuous-bernoulli`, `gaussian`: negative "
        "log-density of pixels in [0, 1], which can be negative. `logistic`: negative log-probability of the image "
        "with 8 bits per value. For autoencoders of diffusion models it is half of the squared error: "
        "−log p(x|z) of a Gaussian of variance 1, without its constant."
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


class ScoreAnswer(BaseModel):
    """Response of /score; bounds and losses in nats, a list each for a batch."""

    elbo: float | Vector = Field(
        description="Evidence lower bound: the mean over `draws` samples of the posterior, the KL divergence exact."
    )
    elbo_standard_error: float | Vector = Field(description="Standard error of `elbo` over the draws.")
    importance_weighted_bound: float | Vector | None = Field(
        None,
        description="With samples=K: a lower bound of log p(x), tighter than the ELBO (Burda et al. 2016, "
        "arXiv:1509.00519).",
    )
    reconstruction_loss: float | Vector = Field(
        description="Loss of the image decoded from the posterior mean, as of /reconstruct."
    )
    kl_divergence: float | Vector = Field(description="KL divergence of the posterior from N(0, I), exact.")
    outlier_factor: float | Vector | None = Field(
        None,
        description="Mean distance of the posterior mean to its 10 nearest among latents of training images, divided "
        "by the mean of the same distance of these: about 1 for a usual image, higher for an unusual one. It is a "
        "local outlier factor (Breunig et al. 2000), simplified as by Schubert, Zimek and Kriegel (2014). Absent where "
        "the checkpoint has no such latents.",
    )
    percentile: float | Vector | None = Field(
        None,
        description="Share, 0 to 1, of the validation images whose score was lower, interpolated; `calibration` of "
        "/model names the score. Absent where the checkpoint has no calibration, or the request does not compute its "
        "score.",
    )
    anomalous: bool | list[bool] | None = Field(None, description="Whether `percentile` is above `level`.")
    pixel_losses: Pixels | list[Pixels] | None = Field(
        None,
        description="With map=true: the terms of `reconstruction_loss`, summed over channels, [1][H][W] or "
        "[N][1][H][W].",
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
    architecture: str = Field(description="mlp, conv or resnet, or the name of a class of diffusers.")
    likelihood: Literal["bernoulli", "continuous-bernoulli", "gaussian", "logistic"] = Field(
        description="p(x|z), whose −log is the reconstruction loss; `gaussian` of variance 1 for models of diffusers."
    )
    image_shape: list[int] = Field(min_length=3, max_length=4, description="[C, H, W], or [C, T, H, W] of videos.")
    latent_shape: tuple[int, ...] = Field(
        description="[D], or [C', h, w] where latents are maps, or [C', t, h, w] of videos."
    )
    stride: int | None = Field(
        description="Pixels per latent position, along height and width. This and the next three are null unless it is "
        "an autoencoder of a diffusion model."
    )
    temporal_stride: int | None = Field(description="Frames per latent frame after the first; 1 for images.")
    frame_rate: int | None = Field(description="Frame rate of videos where a request gives none; null for images.")
    normalisation: NormalisationCard | None = Field(description="How a diffusion model's latents are made of z.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(description="What the network computes in.")
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
    calibration: CalibrationCard | None = Field(description="Null where vae-train fit had no validation images.")


class ModelState(BaseModel):
    """A version of a model, in the response of /models."""

    name: str
    version: str
    aliases: list[str] = Field(description="Other names of it; the routes without a name are those of `default`.")
    state: Literal["ready", "loading", "failed"] = Field(description="State of its newest files.")
    reason: str | None = Field(description="Why its newest files are not served; null where they are.")
    sha256: str | None = Field(description="Hash of the checkpoint that is served; null where none is.")
    load: Literal["start", "first-use"] | None = Field(description="When it is loaded; null where it is not served.")


class ModelList(BaseModel):
    """Response of /models."""

    models: list[ModelState]


class NormalisationCard(BaseModel):
    """A diffusion model's latents are (z − mean)·scale."""

    mean: list[float] = Field(description="Per channel.")
    scale: list[float] = Field(description="Per channel.")
    patch_size: int = Field(description="p: the channels are those of p×p patches of z.")


class CalibrationCard(BaseModel):
    """How the percentiles of /score are computed."""

    score: str = Field(description="The score whose quantiles over validation images the checkpoint has.")
    draws: int = Field(description="Samples of the posterior for its ELBO.")
    samples: int = Field(description="Importance samples; 0 where the score needs none.")
    seed: int = Field(description="Seed of both.")
    images: int = Field(description="Number of validation images.")
    highest_loss: float = Field(description="Highest reconstruction loss of these, nats; above it the percentile is 1.")


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
