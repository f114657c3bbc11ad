"""Handlers: parse the request, await the engine, write the response."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import numpy.typing as npt
from starlette.responses import Response

from service.api.bodies import JSON, Batch, read_images, read_latents
from service.api.context import ModelContext, count_distances, model_context
from service.api.negotiation import negotiate
from service.api.offloading import VALUE_S
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
    PictureInput,
    PngOptions,
    ReconstructOptions,
    SampleOptions,
    ScoreOptions,
    VideoOptions,
)
from service.api.scoring import estimate_bounds, loss_scanlines, reserve_draws, reserve_scores
from service.api.scoring import score as compute_scores
from service.api.videos import (
    accepts_latents,
    accepts_videos,
    check_file,
    decode_video,
    frames_of,
    offers,
    refuse_videos,
    sampled_shape,
    video_response,
)
from service.errors import InvalidInput, NotFound, Problem
from service.formats import npy
from service.formats.arrays import Array
from service.formats.png import grid
from service.formats.videos import VIDEO_TYPES
from service.inference.engine import Engine
from service.inference.noise import choose_seed, standard_normal
from service.inference.posterior import draw_posterior

FloatArray = npt.NDArray[np.float32]
WITHOUT_LOSSES = (PNG, npy.MEDIA_TYPE)
SCORE_FIELDS = 8
"""Numbers of an image in the response of /score, at most."""


async def encode(request: Request, options: EncodeOptions) -> Response:
    """Encode an image, or a batch, to the mean and log-variance of its posterior q(z|x)."""
    media_type = negotiate(request.field(b"accept"), OFFERS)
    context = model_context(request)
    engine = context.engine
    batch = await _read_images(request, context, options)
    shape = engine.config.latent_shape_of(batch.rows.shape[1:])
    reserve_response(request, media_type, 3 * len(batch.rows) * prod(shape))
    mean, log_variance = await engine.encode(batch.rows, timing=request.timing)
    posterior = {"mean": mean, "log_variance": log_variance}
    headers: dict[str, str] = {}
    if options.draw:
        noise = await _noise(request, options.seed, len(mean), shape, headers)
        posterior["z"] = draw_posterior(mean, log_variance, noise)
    return await array_response(request, media_type, posterior, single=batch.single, headers=headers)


async def decode(request: Request, options: VideoOptions) -> Response:
    """Decode a latent, or a batch, to its image or video."""
    context = model_context(request)
    engine, config = context.engine, context.engine.config
    media_type = negotiate(request.field(b"accept"), offers(config))
    batch = await read_latents(request, context.limits, config.latent_shape, accepts=accepts_latents(config))
    shape = config.image_shape_of(batch.rows.shape[1:])
    request.reserve(check_size(context, len(batch.rows), options, media_type, shape))
    await count_distances(request, context, batch.rows)
    if media_type in VIDEO_TYPES:
        return await decode_video(request, engine, media_type, batch.rows, options.fps)
    if media_type == PNG:
        scanlines = await engine.decode_scanlines(batch.rows, timing=request.timing)
        return await png_response(request, scanlines, config.image_shape[0], options)
    images = await engine.decode(batch.rows, timing=request.timing)
    return await array_response(request, media_type, {"pixels": images}, single=batch.single)


async def reconstruct(request: Request, options: ReconstructOptions) -> Response:
    """Encode an image, or a batch, and decode its latent; JSON and arrays have its losses too."""
    context = model_context(request)
    engine = context.engine
    media_type = negotiate(request.field(b"accept"), offers(engine.config))
    if options.draws and engine.config.is_video:
        raise InvalidInput(Problem("query", "/draws", "draws: this model is of videos; leave out draws."))
    if options.draws and media_type in WITHOUT_LOSSES:
        problem = f"draws: {media_type} has no losses; send 'Accept: {JSON}', or leave out draws."
        raise InvalidInput(Problem("query", "/draws", problem))
    batch = await _read_images(request, context, options)
    shape = batch.rows.shape[1:]
    request.reserve(check_size(context, len(batch.rows), options, media_type, shape))
    if options.draws:
        reserve_draws(request, context, len(batch.rows), options.draws, samples=0)
    headers: dict[str, str] = {}
    seed = options.seed
    if seed is None and (options.draw or options.draws):
        seed = choose_seed()  # the same for both
    latent_shape = engine.config.latent_shape_of(shape)
    noise = await _noise(request, seed, len(batch.rows), latent_shape, headers) if options.draw else None
    if media_type in (PNG, *VIDEO_TYPES):
        scanlines = await engine.reconstruct_scanlines(batch.rows, noise, timing=request.timing)
        if media_type in VIDEO_TYPES:
            pieces = [frames_of(scanlines, shape[0])]
            return await video_response(request, engine, media_type, pieces, options.fps, headers)
        return await png_response(request, scanlines, shape[0], options, headers)
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
    engine = context.engine
    refuse_videos(engine.config, "/score")
    batch = await _read_images(request, context, options)
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
    shape = sampled_shape(context.engine.config, options.frames)
    image_shape = context.engine.config.image_shape_of(shape)
    request.reserve(check_size(context, options.n, options, media_type, image_shape))
    headers: dict[str, str] = {}
    z = await _noise(request, options.seed, options.n, shape, headers)
    z *= np.float32(options.temperature)
    if media_type in VIDEO_TYPES:
        return await decode_video(request, context.engine, media_type, z, options.fps, headers)
    return await image_response(request, context.engine, media_type, z, options, headers, seed=int(headers["x-seed"]))


def check_sample(request: Request, options: SampleOptions) -> str:
    """Check a request for samples, and return the media type of the response; raises ServiceError."""
    context = model_context(request)
    config = context.engine.config
    media_type = negotiate(request.field(b"accept"), offers(config))
    context.limits.check_batch(options.n)
    image_shape = config.image_shape_of(sampled_shape(config, options.frames))
    check_size(context, options.n, options, media_type, image_shape)
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


async def _read_images(request: Request, context: ModelContext, options: PictureInput) -> Batch:
    """Read images of the model's shape, or videos."""
    config = context.engine.config
    return await read_images(
        request,
        context.limits,
        config.image_shape,
        fit=options.fit or context.fit,
        invert=options.invert,
        accepts=accepts_videos(config),
    )


async def _noise(
    request: Request, seed: int | None, count: int, shape: tuple[int, ...], headers: dict[str, str]
) -> FloatArray:
    """Draw `count` latents of `shape` from N(0, I) by `seed`, or by a random one; `headers` gets the seed."""
    seed = choose_seed() if seed is None else seed
    headers["x-seed"] = str(seed)
    return await request.run(count * prod(shape) * VALUE_S, standard_normal, seed, count, shape)


def check_size(
    context: ModelContext, count: int, options: PngOptions, media_type: str, shape: tuple[int, ...] | None = None
) -> int:
    """Return the bytes of memory that a response of `count` images or videos takes; raises TooLarge, as of a file.

    `shape` is theirs, the model's by default.
    """
    shape = shape or context.engine.config.image_shape
    if media_type in VIDEO_TYPES:
        return check_file(context.limits, media_type, count, shape)
    channels, *frames, height, width = shape
    if media_type == PNG:
        columns, rows = grid(count * prod(frames), options.columns)
        images = columns * rows * options.scale**2
        context.limits.check_pixels(images, (channels, height, width), "The PNG")
        return images * channels * height * width * PNG_COPIES
    context.limits.check_pixels(count, shape, "The videos" if frames else "The images")
    return response_memory(media_type, count * (prod(shape) + prod(context.engine.config.latent_shape_of(shape))))
