"""Handlers: parse the request, await the engine, write the response."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import numpy.typing as npt
import orjson
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from service.api.bodies import JSON, read_images, read_latents
from service.api.context import ModelContext, count_distances, model_context
from service.api.negotiation import negotiate
from service.api.offloading import VALUE_S
from service.api.operation import AccessControl
from service.api.request import Request
from service.api.responses import (
    IMAGE_OFFERS,
    OFFERS,
    PNG,
    PNG_COPIES,
    BytesResponse,
    array_response,
    png_response,
    reserve_response,
    response_memory,
)
from service.api.schemas import (
    EncodeOptions,
    NoOptions,
    PngOptions,
    ReconstructOptions,
    SampleOptions,
    ScoreOptions,
)
from service.api.scoring import estimate_bounds, loss_scanlines, reserve_draws, reserve_scores
from service.api.scoring import score as compute_scores
from service.errors import InvalidInput, NotFound, Problem
from service.formats import npy
from service.formats.arrays import Array
from service.formats.png import grid
from service.inference.engine import Engine
from service.inference.noise import choose_seed, standard_normal
from service.inference.posterior import draw_posterior
from service.telemetry.prometheus import MEDIA_TYPE as METRICS

FloatArray = npt.NDArray[np.float32]
WITHOUT_LOSSES = (PNG, npy.MEDIA_TYPE)
SCORE_FIELDS = 8
"""Numbers of an image in the response of /score, at most."""


async def encode(request: Request, options: EncodeOptions) -> Response:
    """Encode an image, or a batch, to the mean and log-variance of its posterior q(z|x)."""
    media_type = negotiate(request.field(b"accept"), OFFERS)
    context = model_context(request)
    engine = context.engine
    batch = await read_images(
        request, context.limits, engine.config.image_shape, fit=options.fit or context.fit, invert=options.invert
    )
    reserve_response(request, media_type, 3 * len(batch.rows) * prod(engine.config.latent_shape))
    mean, log_variance = await engine.encode(batch.rows, timing=request.timing)
    posterior = {"mean": mean, "log_variance": log_variance}
    headers: dict[str, str] = {}
    if options.draw:
        noise = await _noise(request, options.seed, len(mean), engine, headers)
        posterior["z"] = draw_posterior(mean, log_variance, noise)
    return await array_response(request, media_type, posterior, single=batch.single, headers=headers)


async def decode(request: Request, options: PngOptions) -> Response:
    """Decode a latent, or a batch, to its image."""
    media_type = negotiate(request.field(b"accept"), IMAGE_OFFERS)
    context = model_context(request)
    batch = await read_latents(request, context.limits, context.engine.config.latent_shape)
    request.reserve(check_size(context, len(batch.rows), options, media_type))
    await count_distances(request, context, batch.rows)
    if media_type == PNG:
        scanlines = await context.engine.decode_scanlines(batch.rows, timing=request.timing)
        return await png_response(request, scanlines, context.engine.config.image_shape[0], options)
    images = await context.engine.decode(batch.rows, timing=request.timing)
    return await array_response(request, media_type, {"pixels": images}, single=batch.single)


async def reconstruct(request: Request, options: ReconstructOptions) -> Response:
    """Encode an image, or a batch, and decode its latent; JSON and arrays have its losses too."""
    media_type = negotiate(request.field(b"accept"), IMAGE_OFFERS)
    if options.draws and media_type in WITHOUT_LOSSES:
        problem = f"draws: {media_type} has no losses; send 'Accept: {JSON}', or leave out draws."
        raise InvalidInput(Problem("query", "/draws", problem))
    context = model_context(request)
    engine = context.engine
    batch = await read_images(
        request, context.limits, engine.config.image_shape, fit=options.fit or context.fit, invert=options.invert
    )
    request.reserve(check_size(context, len(batch.rows), options, media_type))
    if options.draws:
        reserve_draws(request, context, len(batch.rows), options.draws, samples=0)
    headers: dict[str, str] = {}
    seed = options.seed
    if seed is None and (options.draw or options.draws):
        seed = choose_seed()  # the same for both
    noise = await _noise(request, seed, len(batch.rows), engine, headers) if options.draw else None
    if media_type == PNG:
        scanlines = await engine.reconstruct_scanlines(batch.rows, noise, timing=request.timing)
        return await png_response(request, scanlines, engine.config.image_shape[0], options, headers)
    result = await engine.reconstruct(batch.rows, noise, timing=request.timing)
    estimate = -(result.reconstruction_loss + result.kl_divergence)
    fields = {
        "mean": result.mean,
        "log_variance": result.log_variance,
        "reconstruction_loss": result.reconstruction_loss,
        "kl_divergence": result.kl_divergence,
        "elbo": estimate,
        "pixels": result.pixels,
    }
    if options.draw:
        fields["z"] = result.z
    else:
        fields["plug_in_elbo"] = estimate
    if options.draws and seed is not None:
        headers["x-seed"] = str(seed)
        fields |= await estimate_bounds(request, engine, batch.rows, result, draws=options.draws, samples=0, seed=seed)
    return await array_response(request, media_type, fields, single=batch.single, headers=headers)


async def score(request: Request, options: ScoreOptions) -> Response:
    """Tell how unusual an image, or each of a batch, is for the model; or where, by the loss of each pixel."""
    media_type = negotiate(request.field(b"accept"), IMAGE_OFFERS if options.map else OFFERS)
    context = model_context(request)
    engine, shape = context.engine, context.engine.config.image_shape
    batch = await read_images(request, context.limits, shape, fit=options.fit or context.fit, invert=options.invert)
    count = len(batch.rows)
    if options.map:
        request.reserve(check_size(context, count, options, media_type))
    if media_type in WITHOUT_LOSSES and options.map:
        losses = await engine.pixel_losses(batch.rows, timing=request.timing)
        if media_type == PNG:
            scanlines = await request.run(5 * losses.size * VALUE_S, loss_scanlines, losses)
            return await png_response(request, scanlines, 1, options)
        return await array_response(request, media_type, {"pixel_losses": losses}, single=batch.single)
    samples = context.samples if options.samples is None else options.samples
    reserve_scores(request, context, count, options.draws, samples)
    reserve_response(request, media_type, SCORE_FIELDS * count)
    posterior = await engine.reconstruct(batch.rows, timing=request.timing)
    fields = await compute_scores(
        request,
        context,
        batch.rows,
        posterior,
        draws=options.draws,
        samples=samples,
        seed=options.seed,
        level=options.level,
    )
    if options.map:
        fields["pixel_losses"] = await engine.pixel_losses(batch.rows, timing=request.timing)
    headers = {"x-seed": str(options.seed)}
    return await array_response(request, media_type, fields, single=batch.single, headers=headers)


async def sample(request: Request, options: SampleOptions) -> Response:
    """Draw latents from the prior N(0, temperature²·I) and decode them to images."""
    media_type = check_sample(request, options)
    context = model_context(request)
    request.reserve(check_size(context, options.n, options, media_type))
    headers: dict[str, str] = {}
    z = await _noise(request, options.seed, options.n, context.engine, headers)
    z *= np.float32(options.temperature)
    return await image_response(request, context.engine, media_type, z, options, headers, seed=int(headers["x-seed"]))


def check_sample(request: Request, options: SampleOptions) -> str:
    """Check a request for samples, and return the media type of the response; raises ServiceError."""
    media_type = negotiate(request.field(b"accept"), IMAGE_OFFERS)
    context = model_context(request)
    context.limits.check_batch(options.n)
    check_size(context, options.n, options, media_type)
    return media_type


async def latents(request: Request, options: NoOptions) -> Response:
    """Return the latents and labels of the test set that lie beside the checkpoint; npy has only the latents."""
    media_type = check_latents(request, options)
    arrays, latents_json = _stored_latents(request)
    if media_type == JSON:
        return BytesResponse(latents_json, JSON)
    names = ("mean",) if media_type == npy.MEDIA_TYPE else ("mean", "label")
    return await array_response(request, media_type, {name: arrays[name] for name in names}, single=False)


def check_latents(request: Request, _: NoOptions) -> str:
    """Check a request for the latents, and return the media type of the response; raises ServiceError."""
    media_type = negotiate(request.field(b"accept"), OFFERS)
    _stored_latents(request)
    return media_type


def _stored_latents(request: Request) -> tuple[Mapping[str, Array], bytes]:
    """Return the latents beside the checkpoint, as arrays and as JSON; raises NotFound."""
    context = model_context(request)
    if context.latents is None or context.latents_json is None:
        raise NotFound("This checkpoint has no latents; vae-train fit writes them beside it.")
    return context.latents, context.latents_json


async def model(request: Request, options: NoOptions) -> Response:
    """Return the model's shapes, how it was trained, and the metrics that vae-train measured."""
    return BytesResponse(model_context(request).model_json, check_model(request, options))


def check_model(request: Request, _: NoOptions) -> str:
    """Check a request for the model's card, and return the media type of the response; raises NotAcceptable."""
    return negotiate(request.field(b"accept"), (JSON,))


async def metrics(request: StarletteRequest) -> Response:
    """Return the metrics of all workers since the start of the service, in Prometheus' text format."""
    context: ModelContext = request.app.state.model_context
    if context.metrics_need_key:
        access: AccessControl = request.app.state.access_control
        access.check_key(request.headers)
        if access.keyring:
            return BytesResponse(await context.metrics.exposition(), METRICS, {"cache-control": "no-store"})
    return BytesResponse(await context.metrics.exposition(), METRICS)


async def livez(_: StarletteRequest) -> Response:
    """Return 200 as long as the process can respond."""
    return BytesResponse(orjson.dumps({"status": "ok"}), JSON)


async def readyz(request: StarletteRequest) -> Response:
    """Return 200 while the service takes requests, and 503 while it starts or drains."""
    access: AccessControl = request.app.state.access_control
    status = access.admission.status
    return BytesResponse(orjson.dumps({"status": status}), JSON, status=200 if status == "ok" else 503)


async def image_response(
    request: Request,
    engine: Engine,
    media_type: str,
    z: FloatArray,
    options: PngOptions,
    headers: Mapping[str, str] | None = None,
    **extra: int,
) -> BytesResponse:
    """Decode latents (N, …) that the service has chosen; arrays have them too, and JSON the fields `extra`."""
    if media_type == PNG:
        scanlines = await engine.decode_scanlines(z, timing=request.timing)
        return await png_response(request, scanlines, engine.config.image_shape[0], options, headers)
    images = await engine.decode(z, timing=request.timing)
    return await array_response(request, media_type, {"z": z, "pixels": images}, single=False, headers=headers, **extra)


async def _noise(request: Request, seed: int | None, count: int, engine: Engine, headers: dict[str, str]) -> FloatArray:
    """Draw `count` latents from N(0, I) by `seed`, or by a random one; `headers` gets the seed."""
    seed = choose_seed() if seed is None else seed
    headers["x-seed"] = str(seed)
    shape = engine.config.latent_shape
    return await request.run(count * prod(shape) * VALUE_S, standard_normal, seed, count, shape)


def check_size(context: ModelContext, count: int, options: PngOptions, media_type: str) -> int:
    """Return the bytes of memory that a response of `count` images takes; raises TooLarge."""
    shape = context.engine.config.image_shape
    if media_type == PNG:
        columns, rows = grid(count, options.columns)
        images = columns * rows * options.scale**2
        context.limits.check_pixels(images, shape, "The PNG")
        return images * prod(shape) * PNG_COPIES
    context.limits.check_pixels(count, shape)
    return response_memory(media_type, count * (prod(shape) + prod(context.engine.config.latent_shape)))
