"""What the fast path runs: operations on one small input, each as a function that reads and one that writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import hypot, prod

import numpy as np
import orjson

from pictures.opening import FORMATS
from service.api.bodies import JSON, latents_of_json
from service.api.context import ModelContext
from service.api.negotiation import negotiate
from service.api.pictures import read_plain_png
from service.api.request import Request
from service.api.responses import IMAGE_OFFERS, OFFERS, PNG, PNG_COPIES, response_memory
from service.api.schemas import EncodeOptions, PngOptions, ReconstructOptions
from service.formats.png import write_png
from service.inference.backend import Arrays
from service.inference.batching import MicroBatcher
from service.memory_budget import UNCOUNTED

NUMBER_CHARACTERS = 32
"""Characters of a number in JSON at most, with what separates it from the next."""


@dataclass(frozen=True, slots=True)
class SmallOperation:
    """An operation on one small input: read the body, compute its row in a batch, write the result."""

    read: Callable[[bytes], Arrays | None]
    """Body → arrays of one row; returns None, or raises ServiceError, for a body that is not one small input."""
    batcher: MicroBatcher[Arrays, Arrays]
    write: Callable[[Arrays], bytes]
    """Arrays of one row → body of the response."""
    media_type: str
    """Media type of the response."""


def decode(request: Request, context: ModelContext, options: PngOptions) -> SmallOperation | None:
    """/decode of one latent, as PNG or JSON."""
    engine, limits = context.engine, context.limits
    shape, (*_, height, width) = engine.config.latent_shape, engine.config.image_shape
    if request.media_type != JSON or len(shape) > 1 or height * width > limits.image_pixels:
        return None
    distances = context.counters.histogram("vae_latent_distance")

    def read(body: bytes) -> Arrays | None:
        if len(body) > NUMBER_CHARACTERS * (1 + shape[0]):  # most likely it is refused, and would be parsed twice
            return None
        batch = latents_of_json(body, limits, shape, _reserve)
        if not batch.single:
            return None
        distances.add(hypot(*batch.rows[0].tolist()))
        return (batch.rows,)

    media_type = negotiate(request.field(b"accept"), IMAGE_OFFERS)
    if media_type == JSON and response_memory(JSON, prod(engine.config.image_shape) + prod(shape)) <= UNCOUNTED:
        return SmallOperation(read, engine.decoder, partial(_write_json, ("pixels",)), JSON)
    if media_type == PNG and (write := _png_writer(context, options)):
        return SmallOperation(read, engine.scanline_decoder, write, PNG)
    return None


def encode(request: Request, context: ModelContext, options: EncodeOptions) -> SmallOperation | None:
    """/encode of one picture, as JSON, without a draw."""
    read = _picture_reader(request, context, options)
    size = response_memory(JSON, 3 * prod(context.engine.config.latent_shape))
    if read is None or size > UNCOUNTED or options.draw or negotiate(request.field(b"accept"), OFFERS) != JSON:
        return None
    return SmallOperation(read, context.engine.encoder, partial(_write_json, ("mean", "log_variance")), JSON)


def reconstruct(request: Request, context: ModelContext, options: ReconstructOptions) -> SmallOperation | None:
    """/reconstruct of one picture, as PNG, from the posterior's mean."""
    read, write = _picture_reader(request, context, options), _png_writer(context, options)
    media_type = negotiate(request.field(b"accept"), IMAGE_OFFERS)
    if read is None or write is None or options.draw or options.draws or media_type != PNG:
        return None
    noise = np.zeros((1, *context.engine.config.latent_shape), np.float32)

    def read_with_noise(body: bytes) -> Arrays | None:
        images = read(body)
        return images and (*images, noise)

    return SmallOperation(read_with_noise, context.engine.scanline_reconstructor, write, PNG)


def _picture_reader(
    request: Request, context: ModelContext, options: EncodeOptions | ReconstructOptions
) -> Callable[[bytes], Arrays | None] | None:
    shape, limits = context.engine.config.image_shape, context.limits
    fit, invert = options.fit or context.fit, options.invert
    if request.media_type not in FORMATS or 4 * prod(shape) > UNCOUNTED or shape[1] * shape[2] > limits.image_pixels:
        return None

    def read(body: bytes) -> Arrays | None:
        image = read_plain_png(body, limits, shape, fit=fit, invert=invert)
        return None if image is None else (image,)

    return read


def _png_writer(context: ModelContext, options: PngOptions) -> Callable[[Arrays], bytes] | None:
    channels, height, width = context.engine.config.image_shape
    pixels = height * width * options.scale**2
    if PNG_COPIES * channels * pixels > UNCOUNTED or pixels > context.limits.image_pixels:
        return None
    return lambda result: write_png(result[0], channels, options.columns, options.scale)


def _reserve(_: int) -> None:
    """Do nothing: small allocations are not charged to the memory budget."""


def _write_json(names: tuple[str, ...], result: Arrays) -> bytes:
    fields = {name: array[0] for name, array in zip(names, result, strict=False)}  # a loss may follow, which is counted
    return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
