"""/interpolate and /traverse: images of latents on a path, from a document (POST) or a query (GET)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import numpy.typing as npt
from starlette.responses import Response

from service.api.bodies import read_document
from service.api.context import ModelContext, model_context
from service.api.negotiation import negotiate
from service.api.offloading import VALUE_S
from service.api.request import Request
from service.api.responses import IMAGE_OFFERS
from service.api.routes import check_size, image_response
from service.api.schemas import (
    InterpolateOptions,
    Interpolation,
    MapInterpolation,
    PngOptions,
    Traversal,
    TraverseOptions,
)
from service.api.videos import refuse_videos
from service.errors import InvalidInput, NotFound, Problem
from service.formats.json_reader import VALUES
from service.inference.paths import interpolate as interpolation
from service.inference.paths import traverse as traversal


async def interpolate(request: Request, options: PngOptions) -> Response:
    """Decode latents on a path from one to another, at equal steps."""
    media_type = negotiate(request.field(b"accept"), IMAGE_OFFERS)
    context = model_context(request)
    shape = context.engine.config.latent_shape
    refuse_videos(context.engine.config, "/interpolate")
    asked: Interpolation | MapInterpolation
    if len(shape) == 1:
        asked = await read_document(request, context.limits, Interpolation)
    else:
        asked = await read_document(request, context.limits, MapInterpolation, VALUES + 2 * prod(shape))
    ends = {"from": asked.start, "to": asked.stop}
    await request.run(20 * prod(shape) * VALUE_S, _check_latent, context, ends, "body")
    return await _interpolation_response(request, media_type, asked, options)


async def interpolate_query(request: Request, options: InterpolateOptions) -> Response:
    """Decode latents on a path from one to another, as POST does, for latents that are vectors.

    Clients can store the response.
    """
    return await _interpolation_response(request, check_interpolation(request, options), options, options)


def check_interpolation(request: Request, options: InterpolateOptions) -> str:
    """Check a request by GET, and return the media type of the response; raises ServiceError."""
    media_type = negotiate(request.field(b"accept"), IMAGE_OFFERS)
    context = model_context(request)
    refuse_videos(context.engine.config, "/interpolate")
    if len(context.engine.config.latent_shape) > 1:
        problem = "from: The latents of this model are maps; send them to POST /interpolate, as JSON."
        raise InvalidInput(Problem("query", "/from", problem))
    _check_latent(context, {"from": options.start, "to": options.stop}, "query")
    _check_images(context, options.steps, 1, options, media_type)
    return media_type


async def traverse(request: Request, options: PngOptions) -> Response:
    """Vary one dimension of a latent, or two over a grid, and decode each latent to its image."""
    media_type = negotiate(request.field(b"accept"), IMAGE_OFFERS)
    context = model_context(request)
    _latent_dim(context)
    asked = await read_document(request, context.limits, Traversal)
    _check_dimensions(context, asked, "body")
    return await _traversal_response(request, media_type, asked, options)


async def traverse_query(request: Request, options: TraverseOptions) -> Response:
    """Vary one dimension of a latent, or two over a grid, as POST does.

    Clients can store the response.
    """
    return await _traversal_response(request, check_traversal(request, options), options, options)


def check_traversal(request: Request, options: TraverseOptions) -> str:
    """Check a request by GET, and return the media type of the response; raises ServiceError."""
    media_type = negotiate(request.field(b"accept"), IMAGE_OFFERS)
    context = model_context(request)
    _check_dimensions(context, options, "query")
    _check_images(context, options.steps, len(options.dimensions), options, media_type)
    return media_type


async def _interpolation_response(
    request: Request, media_type: str, asked: Interpolation | MapInterpolation | InterpolateOptions, options: PngOptions
) -> Response:
    context = model_context(request)
    request.reserve(_check_images(context, asked.steps, 1, options, media_type))
    seconds = (asked.steps + 20) * prod(context.engine.config.latent_shape) * VALUE_S
    spherical = asked.method == "spherical"
    z = await request.run(seconds, interpolation, asked.start, asked.stop, asked.steps, spherical)
    return await image_response(request, context.engine, media_type, z, _with_columns(options, asked.steps))


async def _traversal_response(
    request: Request, media_type: str, asked: Traversal | TraverseOptions, options: PngOptions
) -> Response:
    context = model_context(request)
    request.reserve(_check_images(context, asked.steps, len(asked.dimensions), options, media_type))
    seconds = asked.steps ** len(asked.dimensions) * len(asked.at) * VALUE_S
    z = await request.run(seconds, traversal, asked.at, asked.dimensions, asked.low, asked.high, asked.steps)
    return await image_response(request, context.engine, media_type, z, _with_columns(options, asked.steps))


def _check_images(context: ModelContext, steps: int, dimensions: int, options: PngOptions, media_type: str) -> int:
    """Return the bytes of memory that a response of steps^dimensions images takes; raises TooLarge."""
    context.limits.check_batch(steps)  # before a power of it
    context.limits.check_batch(steps**dimensions)
    return check_size(context, steps**dimensions, _with_columns(options, steps), media_type)


def _check_latent(context: ModelContext, fields: Mapping[str, npt.ArrayLike], location: str) -> None:
    expected = "×".join(map(str, context.engine.config.latent_shape))
    for field, latent in fields.items():
        try:
            size = "×".join(map(str, np.shape(latent)))
        except ValueError:
            size = "lists of several lengths, not"
        if size != expected:
            problem = f"{field} has {size} numbers; {expected} are expected."
            raise InvalidInput(Problem(location, f"/{field}", problem))


def _check_dimensions(context: ModelContext, asked: Traversal | TraverseOptions, location: str) -> None:
    """Check the latent of a traversal and its dimensions; raises InvalidInput, or NotFound as `_latent_dim`."""
    latent_dim = _latent_dim(context)
    _check_latent(context, {"at": asked.at}, location)
    for index, dimension in enumerate(asked.dimensions):
        if dimension >= latent_dim or dimension in asked.dimensions[:index]:
            problem = f"dimensions.{index} is {dimension}; distinct ones from 0 to {latent_dim - 1} are expected."
            raise InvalidInput(Problem(location, f"/dimensions/{index}", problem))


def _latent_dim(context: ModelContext) -> int:
    """Return the length of latents; raises NotFound where they are maps."""
    latent_dim, *more = context.engine.config.latent_shape
    if more:
        raise NotFound("The latents of this model are maps, not vectors: they have no single dimension to vary.")
    return latent_dim


def _with_columns(options: PngOptions, columns: int) -> PngOptions:
    return options if options.columns else PngOptions(columns=columns, scale=options.scale)
