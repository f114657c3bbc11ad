"""Handlers: decode the request, await the engine, encode the answer."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import Query
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from service.api.bodies import JSON, read_document, read_images, read_latents
from service.api.context import ModelContext, count_distances
from service.api.negotiation import negotiate
from service.api.offloading import VALUE_S
from service.api.operation import AccessControl
from service.api.request import Request
from service.api.responses import OFFERS, PNG, PNG_COPIES, Answer, arrays, png, reserve
from service.api.schemas import (
    EncodeOptions,
    Interpolation,
    MapInterpolation,
    NoOptions,
    PngOptions,
    ReconstructOptions,
    SampleOptions,
    Traversal,
)
from service.errors import InvalidInput, NotFound, Problem
from service.formats import npy
from service.formats.json_reader import VALUES
from service.formats.png import grid
from service.inference.engine import Engine
from service.inference.noise import choose_seed, standard_normal
from service.inference.paths import interpolate as interpolation
from service.inference.paths import traverse as traversal
from service.inference.posterior import draw_posterior, estimate_elbo
from service.telemetry.prometheus import MEDIA_TYPE as METRICS

FloatArray = npt.NDArray[np.float32]
DRAWN = (PNG, *OFFERS)
WITHOUT_LOSSES = (PNG, npy.MEDIA_TYPE)
LOSS_BYTES = 16
"""Of a loss: as float32 twice, and as float64 within its standard deviation."""


async def encode(request: Request, options: Annotated[EncodeOptions, Query()]) -> Response:
    """An image (or a batch) to the mean and log-variance of its posterior q(z|x)."""
    media_type = negotiate(request.field(b"accept"), OFFERS)
    loaded = _loaded(request)
    engine = loaded.engine
    batch = await read_images(
        request, loaded.limits, engine.config.image_shape, fit=options.fit or loaded.fit, invert=options.invert
    )
    reserve(request, media_type, 3 * len(batch.rows) * prod(engine.config.latent_shape))
    mean, log_variance = await engine.encode(batch.rows, timing=request.timing)
    posterior = {"mean": mean, "log_variance": log_variance}
    headers: dict[str, str] = {}
    if options.draw:
        noise = await _noise(request, options.seed, len(mean), engine, headers)
        posterior["z"] = draw_posterior(mean, log_variance, noise)
    return await arrays(request, media_type, posterior, single=batch.single, headers=headers)


async def decode(request: Request, options: Annotated[PngOptions, Query()]) -> Response:
    """A latent vector (or a batch) to its image."""
    media_type = negotiate(request.field(b"accept"), DRAWN)
    loaded = _loaded(request)
    batch = await read_latents(request, loaded.limits, loaded.engine.config.latent_shape)
    _check_size(request, loaded, len(batch.rows), options, media_type)
    await count_distances(request, loaded, batch.rows)
    if media_type == PNG:
        scanlines = await loaded.engine.decode_scanlines(batch.rows, timing=request.timing)
        return await png(request, scanlines, loaded.engine.config.image_shape[0], options)
    images = await loaded.engine.decode(batch.rows, timing=request.timing)
    return await arrays(request, media_type, {"pixels": images}, single=batch.single)


async def reconstruct(request: Request, options: Annotated[ReconstructOptions, Query()]) -> Response:
    """An image (or a batch) through the latent space and back, with its losses."""
    media_type = negotiate(request.field(b"accept"), DRAWN)
    if options.draws and media_type in WITHOUT_LOSSES:
        problem = f"draws: {media_type} has no losses; send 'Accept: {JSON}', or leave draws out."
        raise InvalidInput(Problem("query", "/draws", problem))
    loaded = _loaded(request)
    engine = loaded.engine
    batch = await read_images(
        request, loaded.limits, engine.config.image_shape, fit=options.fit or loaded.fit, invert=options.invert
    )
    _check_size(request, loaded, len(batch.rows), options, media_type)
    if options.draws:
        _check_draws(request, loaded, len(batch.rows), options.draws)
    headers: dict[str, str] = {}
    seed = options.seed
    if seed is None and (options.draw or options.draws):
        seed = choose_seed()  # one for both
    noise = await _noise(request, seed, len(batch.rows), engine, headers) if options.draw else None
    if media_type == PNG:
        scanlines = await engine.reconstruct_scanlines(batch.rows, noise, timing=request.timing)
        return await png(request, scanlines, engine.config.image_shape[0], options, headers)
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
    if options.draws:
        noise = await _noise(request, seed, options.draws, engine, headers)
        losses = await engine.sample_losses(batch.rows, result.mean, result.log_variance, noise, timing=request.timing)
        seconds = losses.size * VALUE_S
        fields["elbo"], error = await request.run(seconds, estimate_elbo, losses, result.kl_divergence)
        fields["elbo_standard_error"] = error
    return await arrays(request, media_type, fields, single=batch.single, headers=headers)


async def sample(request: Request, options: Annotated[SampleOptions, Query()]) -> Response:
    """Images decoded from draws of the prior N(0, temperature²·I)."""
    media_type = negotiate(request.field(b"accept"), DRAWN)
    loaded = _loaded(request)
    loaded.limits.check_batch(options.n)
    _check_size(request, loaded, options.n, options, media_type)
    headers: dict[str, str] = {}
    z = await _noise(request, options.seed, options.n, loaded.engine, headers)
    z *= np.float32(options.temperature)
    return await _walk(request, loaded.engine, media_type, z, options, headers, seed=int(headers["x-seed"]))


async def interpolate(request: Request, options: Annotated[PngOptions, Query()]) -> Response:
    """Images on the way from one latent to another."""
    media_type = negotiate(request.field(b"accept"), DRAWN)
    loaded = _loaded(request)
    shape = loaded.engine.config.latent_shape
    asked: Interpolation | MapInterpolation
    if len(shape) == 1:
        asked = await read_document(request, loaded.limits, Interpolation)
    else:
        asked = await read_document(request, loaded.limits, MapInterpolation, VALUES + 2 * prod(shape))
    ends = {"from": asked.start, "to": asked.stop}
    await request.run(20 * prod(shape) * VALUE_S, _check_latent, loaded, ends)
    loaded.limits.check_batch(asked.steps)
    options = _with_columns(options, asked.steps)
    _check_size(request, loaded, asked.steps, options, media_type)
    seconds = (asked.steps + 20) * prod(shape) * VALUE_S
    spherical = asked.method == "spherical"
    z = await request.run(seconds, interpolation, asked.start, asked.stop, asked.steps, spherical)
    return await _walk(request, loaded.engine, media_type, z, options)


async def traverse(request: Request, options: Annotated[PngOptions, Query()]) -> Response:
    """Images along one latent dimension, or over the grid of two."""
    media_type = negotiate(request.field(b"accept"), DRAWN)
    loaded = _loaded(request)
    latent_dim, *more = loaded.engine.config.latent_shape
    if more:
        raise NotFound("The latents of this model are maps, not vectors: there is no single dimension to walk along.")
    asked = await read_document(request, loaded.limits, Traversal)
    _check_latent(loaded, {"at": asked.at})
    for index, dimension in enumerate(asked.dimensions):
        if dimension >= latent_dim or dimension in asked.dimensions[:index]:
            problem = f"dimensions.{index} is {dimension}; different ones from 0 to {latent_dim - 1} are wanted."
            raise InvalidInput(Problem("body", f"/dimensions/{index}", problem))
    loaded.limits.check_batch(asked.steps)
    count = asked.steps ** len(asked.dimensions)
    loaded.limits.check_batch(count)
    options = _with_columns(options, asked.steps)
    _check_size(request, loaded, count, options, media_type)
    seconds = count * latent_dim * VALUE_S
    z = await request.run(seconds, traversal, asked.at, asked.dimensions, asked.low, asked.high, asked.steps)
    return await _walk(request, loaded.engine, media_type, z, options)


async def latents(request: Request, _: Annotated[NoOptions, Query()]) -> Response:
    """The test set's latents and labels that came with the checkpoint; npy, of one array, has the latents alone."""
    media_type = negotiate(request.field(b"accept"), OFFERS)
    loaded = _loaded(request)
    if loaded.latents is None or loaded.latents_json is None:
        raise NotFound("No latents came with this checkpoint; vae-train fit writes them beside it.")
    if media_type == JSON:
        return Answer(loaded.latents_json, JSON)
    names = ("mean",) if media_type == npy.MEDIA_TYPE else ("mean", "label")
    return await arrays(request, media_type, {name: loaded.latents[name] for name in names}, single=False)


async def model(request: Request, _: Annotated[NoOptions, Query()]) -> Response:
    """What is being served, how it was trained, and what was measured of it."""
    negotiate(request.field(b"accept"), (JSON,))
    return Answer(_loaded(request).model_json, JSON)


async def metrics(request: StarletteRequest) -> Response:
    """What was counted since the service started, by all workers together, in Prometheus' text format."""
    loaded: ModelContext = request.app.state.loaded
    if loaded.metrics_need_key:
        gate: AccessControl = request.app.state.gate
        gate.keyring.identify(request.headers.get("authorization", ""), request.headers.get("x-api-key", ""))
        if gate.keyring:
            return Answer(await loaded.metrics.exposition(), METRICS, {"cache-control": "no-store"})
    return Answer(await loaded.metrics.exposition(), METRICS)


async def livez(_: StarletteRequest) -> Response:
    """Is the process alive? 200 as long as it can answer."""
    return Answer(orjson.dumps({"status": "ok"}), JSON)


async def readyz(request: StarletteRequest) -> Response:
    """Should traffic be sent here? 503 while the service starts and drains."""
    gate: AccessControl = request.app.state.gate
    status = gate.admission.status
    return Answer(orjson.dumps({"status": status}), JSON, status=200 if status == "ok" else 503)


async def _walk(
    request: Request,
    engine: Engine,
    media_type: str,
    z: FloatArray,
    options: PngOptions,
    headers: Mapping[str, str] | None = None,
    **told: int,
) -> Answer:
    """Images decoded from latents (N, …) that the service chose, with these, and `told` where it is JSON."""
    if media_type == PNG:
        scanlines = await engine.decode_scanlines(z, timing=request.timing)
        return await png(request, scanlines, engine.config.image_shape[0], options, headers)
    images = await engine.decode(z, timing=request.timing)
    return await arrays(request, media_type, {"z": z, "pixels": images}, single=False, headers=headers, **told)


def _loaded(request: Request) -> ModelContext:
    loaded: ModelContext = request.scope["app"].state["loaded"]
    return loaded


async def _noise(request: Request, seed: int | None, count: int, engine: Engine, headers: dict[str, str]) -> FloatArray:
    """N(0, I) of `seed`, or of a chosen one, which is told in `headers`."""
    seed = choose_seed() if seed is None else seed
    headers["x-seed"] = str(seed)
    shape = engine.config.latent_shape
    return await request.run(count * prod(shape) * VALUE_S, standard_normal, seed, count, shape)


def _check_latent(loaded: ModelContext, fields: Mapping[str, npt.ArrayLike]) -> None:
    wanted = loaded.engine.config.latent_shape
    for field, latent in fields.items():
        try:
            came = "×".join(map(str, np.shape(latent)))
        except ValueError:
            came = "lists of several lengths, not"
        if came != "×".join(map(str, wanted)):
            problem = f"{field} has {came} numbers; {'×'.join(map(str, wanted))} are wanted."
            raise InvalidInput(Problem("body", f"/{field}", problem))


def _check_size(request: Request, loaded: ModelContext, count: int, options: PngOptions, media_type: str) -> None:
    """Raise TooLarge or Unavailable, or charge what is answered to the memory budget."""
    shape = loaded.engine.config.image_shape
    if media_type == PNG:
        columns, rows = grid(count, options.columns)
        images = columns * rows * options.scale**2
        loaded.limits.check_pixels(images, shape, "The PNG")
        request.reserve(images * prod(shape) * PNG_COPIES)
    else:
        loaded.limits.check_pixels(count, shape)
        reserve(request, media_type, count * (prod(shape) + prod(loaded.engine.config.latent_shape)))


def _check_draws(request: Request, loaded: ModelContext, count: int, draws: int) -> None:
    """Raise TooLarge or Unavailable, or charge `draws` of each of `count` images to the memory budget."""
    decoded = count * draws
    loaded.limits.check_batch(decoded, "decoded draws")
    loaded.limits.check_pixels(decoded, loaded.engine.config.image_shape, "The images decoded for draws")
    request.reserve(4 * draws * prod(loaded.engine.config.latent_shape) + LOSS_BYTES * decoded)


def _with_columns(options: PngOptions, columns: int) -> PngOptions:
    return options if options.columns else PngOptions(columns=columns, scale=options.scale)
