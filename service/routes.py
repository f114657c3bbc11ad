"""Handlers: decode the request, await the engine, encode the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from service.answers import PNG, Answer, json, pixels, png
from service.bodies import JSON, Limits, read_document, read_images, read_latents
from service.call import Call
from service.draws import choose_seed, standard_normal
from service.engine import Engine, draw_posterior
from service.errors import InvalidInput, NotFound, Problem, TooLarge
from service.negotiation import negotiate
from service.npy import MEDIA_TYPE as NPY
from service.npy import write_npy
from service.operation import Gate
from service.schemas import (
    EncodeOptions,
    Interpolation,
    NoOptions,
    PngOptions,
    ReconstructOptions,
    SampleOptions,
    Traversal,
)
from service.walks import interpolate as interpolation
from service.walks import traverse as traversal

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Loaded:
    """What the handlers work with, there once the service has started."""

    engine: Engine
    limits: Limits
    model_json: bytes
    latents_json: bytes | None


async def encode(call: Call, options: Annotated[EncodeOptions, Query()]) -> Response:
    """An image (or a batch) to the mean and log-variance of its posterior q(z|x)."""
    media_type = negotiate(call.field(b"accept"), JSON, NPY)
    loaded = _loaded(call)
    engine = loaded.engine
    batch = await read_images(call, loaded.limits, engine.config.image_shape, fit=options.fit, invert=options.invert)
    mean, log_variance = await engine.encode(batch.rows)
    posterior = {"mean": mean, "log_variance": log_variance}
    headers: dict[str, str] = {}
    if options.draw:
        noise = _noise(options.seed, len(mean), engine.config.latent_dim, headers)
        posterior["z"] = draw_posterior(mean, log_variance, noise)
    if media_type == NPY:
        stacked = np.stack(list(posterior.values()), axis=1)
        return Answer(write_npy(stacked[0] if batch.single else stacked), NPY, headers)
    return await json({name: rows[0] if batch.single else rows for name, rows in posterior.items()}, headers)


async def decode(call: Call, options: Annotated[PngOptions, Query()]) -> Response:
    """A latent vector (or a batch) to its image."""
    media_type = negotiate(call.field(b"accept"), PNG, JSON, NPY)
    loaded = _loaded(call)
    batch = await read_latents(call, loaded.limits, loaded.engine.config.latent_dim)
    _check_png(loaded, len(batch.rows), options, media_type)
    if media_type == PNG:
        return await png(await loaded.engine.draw(batch.rows), options)
    return await pixels(media_type, await loaded.engine.decode(batch.rows), single=batch.single)


async def reconstruct(call: Call, options: Annotated[ReconstructOptions, Query()]) -> Response:
    """An image (or a batch) through the latent space and back, with its losses."""
    media_type = negotiate(call.field(b"accept"), PNG, JSON, NPY)
    loaded = _loaded(call)
    engine = loaded.engine
    batch = await read_images(call, loaded.limits, engine.config.image_shape, fit=options.fit, invert=options.invert)
    _check_png(loaded, len(batch.rows), options, media_type)
    headers: dict[str, str] = {}
    noise = _noise(options.seed, len(batch.rows), engine.config.latent_dim, headers) if options.draw else None
    if media_type == PNG:
        return await png(await engine.redraw(batch.rows, noise), options, headers)
    result = await engine.reconstruct(batch.rows, noise)
    if media_type == JSON:
        fields = {
            "mean": result.mean,
            "log_variance": result.log_variance,
            "reconstruction_loss": result.reconstruction_loss,
            "kl_divergence": result.kl_divergence,
            "elbo": result.elbo,
            "pixels": result.pixels,
        }
        if options.draw:
            fields["z"] = result.z
        return await json({name: rows[0] if batch.single else rows for name, rows in fields.items()}, headers)
    return await pixels(media_type, result.pixels, single=batch.single, headers=headers)


async def sample(call: Call, options: Annotated[SampleOptions, Query()]) -> Response:
    """Images decoded from draws of the prior N(0, temperature²·I)."""
    media_type = negotiate(call.field(b"accept"), PNG, JSON, NPY)
    loaded = _loaded(call)
    loaded.limits.check_batch(options.n)
    _check_png(loaded, options.n, options, media_type)
    headers: dict[str, str] = {}
    z = _noise(options.seed, options.n, loaded.engine.config.latent_dim, headers) * np.float32(options.temperature)
    return await _walk(loaded.engine, media_type, z, options, headers, seed=int(headers["x-seed"]))


async def interpolate(call: Call, options: Annotated[PngOptions, Query()]) -> Response:
    """Images on the way from one latent to another."""
    media_type = negotiate(call.field(b"accept"), PNG, JSON, NPY)
    loaded = _loaded(call)
    asked = await read_document(call, loaded.limits, Interpolation)
    _check_latent(loaded, {"from": asked.start, "to": asked.stop})
    loaded.limits.check_batch(asked.steps)
    options = _with_columns(options, asked.steps)
    _check_png(loaded, asked.steps, options, media_type)
    z = interpolation(asked.start, asked.stop, asked.steps, spherical=asked.method == "spherical")
    return await _walk(loaded.engine, media_type, z, options)


async def traverse(call: Call, options: Annotated[PngOptions, Query()]) -> Response:
    """Images along one latent dimension, or over the grid of two."""
    media_type = negotiate(call.field(b"accept"), PNG, JSON, NPY)
    loaded = _loaded(call)
    asked = await read_document(call, loaded.limits, Traversal)
    _check_latent(loaded, {"at": asked.at})
    latent_dim = loaded.engine.config.latent_dim
    for index, dimension in enumerate(asked.dimensions):
        if dimension >= latent_dim or dimension in asked.dimensions[:index]:
            problem = f"dimensions.{index} is {dimension}; different ones from 0 to {latent_dim - 1} are wanted."
            raise InvalidInput(Problem("body", f"/dimensions/{index}", problem))
    loaded.limits.check_batch(asked.steps)
    count = asked.steps ** len(asked.dimensions)
    loaded.limits.check_batch(count)
    options = _with_columns(options, asked.steps)
    _check_png(loaded, count, options, media_type)
    z = traversal(asked.at, asked.dimensions, asked.low, asked.high, asked.steps)
    return await _walk(loaded.engine, media_type, z, options)


async def latents(call: Call, _: Annotated[NoOptions, Query()]) -> Response:
    """The test set's latents and labels that came with the checkpoint."""
    negotiate(call.field(b"accept"), JSON)
    document = _loaded(call).latents_json
    if document is None:
        raise NotFound("No latents came with this checkpoint; vae-train fit writes them beside it.")
    return Answer(document, JSON)


async def model(call: Call, _: Annotated[NoOptions, Query()]) -> Response:
    """What is being served, how it was trained, and what was measured of it."""
    negotiate(call.field(b"accept"), JSON)
    return Answer(_loaded(call).model_json, JSON)


async def livez() -> Response:
    """Is the process alive? 200 as long as it can answer."""
    return await json({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Should traffic be sent here? 503 while the service starts and drains."""
    gate: Gate = request.app.state.gate
    response = await json({"status": gate.admission.status})
    response.status_code = 200 if gate.admission.status == "ok" else 503
    return response


async def _walk(
    engine: Engine,
    media_type: str,
    z: FloatArray,
    options: PngOptions,
    headers: Mapping[str, str] | None = None,
    **fields: int,
) -> Answer:
    """Images decoded from latents (N, D) that the service chose; JSON tells these and `fields` before them."""
    if media_type == PNG:
        return await png(await engine.draw(z), options, headers)
    images = await engine.decode(z)
    if media_type == JSON:
        return await json({**fields, "z": z, "pixels": images}, headers)
    return await pixels(media_type, images, single=False, headers=headers)


def _loaded(call: Call) -> Loaded:
    loaded: Loaded = call.app.state.loaded
    return loaded


def _noise(seed: int | None, count: int, latent_dim: int, headers: dict[str, str]) -> FloatArray:
    """N(0, I) of `seed`, or of a chosen one, which is told in `headers`."""
    seed = choose_seed() if seed is None else seed
    headers["x-seed"] = str(seed)
    return standard_normal(seed, count, latent_dim)


def _check_latent(loaded: Loaded, fields: dict[str, list[float]]) -> None:
    wanted = loaded.engine.config.latent_dim
    for field, vector in fields.items():
        if len(vector) != wanted:
            problem = f"{field} has {len(vector)} numbers; {wanted} are wanted."
            raise InvalidInput(Problem("body", f"/{field}", problem))


def _check_png(loaded: Loaded, count: int, options: PngOptions, media_type: str) -> None:
    _, height, width = loaded.engine.config.image_shape
    if media_type == PNG and (pixels := count * height * width * options.scale**2) > loaded.limits.image_pixels:
        raise TooLarge(f"The PNG would have {pixels} pixels; at most {loaded.limits.image_pixels} are given.")


def _with_columns(options: PngOptions, columns: int) -> PngOptions:
    return options if options.columns else PngOptions(columns=columns, scale=options.scale)
