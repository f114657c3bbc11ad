"""/remote/decode: latents → pictures or tensors."""

from __future__ import annotations

from math import prod

import numpy as np
from starlette.responses import Response

from service.api.context import count_distances, model_context
from service.api.negotiation import negotiate
from service.api.offloading import BYTE_S, PIXEL_S, VALUE_S
from service.api.remote.bodies import TENSOR, read_body
from service.api.remote.latents import read_latents
from service.api.remote.options import RemoteDecodeOptions
from service.api.remote.shapes import check_jpeg
from service.api.remote.tensors import (
    array_response,
    bytes_response,
    little_endian,
    read_tensor,
    tensor_memory,
    tensor_types,
)
from service.api.request import Request
from service.api.responses import PNG, BytesResponse, FloatArray, png_response
from service.api.schemas import PngOptions
from service.formats.images import write_jpeg
from service.inference.backend import numpy_dtype

JPEG = "image/jpeg"
PICTURES = {None: (JPEG, PNG), "jpg": (JPEG,), "png": (PNG,)}
"""`image_format` → media types."""
IMAGE_BYTES = 12
"""Bytes per number of an image in a response: as float32, in its dtype, and in a grid."""


async def decode(request: Request, options: RemoteDecodeOptions) -> Response:
    """Decode a latent, or a batch, to its image, for `remote_decode` of diffusers, for SD.Next and for ComfyUI.

    `output_type=pil` gives a picture, or the tensor (N, C, H, W) in [0, 1] if `Accept` asks for a tensor, as for
    diffusers' video models. Tensors have a batch axis even if the latent has none.
    """
    context = model_context(request)
    engine = context.engine
    body, options = await read_body(request, options, context.limits, (TENSOR,))
    pictures = PICTURES[options.image_format] if options.output_type == "pil" else ()
    media_type = negotiate(request.field(b"accept"), (*pictures, *tensor_types(options)))

    def read() -> tuple[FloatArray, tuple[int, int, int]]:
        return read_latents(read_tensor(body, options, request.reserve), options, engine.config, context.limits)

    z, image_shape = await request.run(len(body) * VALUE_S, read)
    if media_type == JPEG:
        check_jpeg(len(z), image_shape)
    size = len(z) * prod(image_shape)
    numbers = size * (3 if image_shape[0] == 1 else 1)
    request.reserve(numbers * IMAGE_BYTES + tensor_memory(media_type, numbers))
    await count_distances(request, context, z)
    if options.output_type == "pt" and not options.partial_postprocess:
        tensors = await engine.decode_raw(z, options.dtype, timing=request.timing)
        return await bytes_response(request, media_type, tensors.data.cast("B"), (len(z), *image_shape), options.dtype)
    if media_type not in pictures and options.output_type == "pil":
        images = await engine.decode(z, timing=request.timing)
        array = await request.run(size * VALUE_S, little_endian, images, numpy_dtype(options.dtype), 1)
        return await array_response(request, media_type, array)
    scanlines, channels = await engine.decode_scanlines(z, timing=request.timing), engine.config.image_shape[0]
    if media_type == PNG:
        return await png_response(request, scanlines, channels, PngOptions(columns=None, scale=1))
    if media_type == JPEG:
        return BytesResponse(await request.run(size * PIXEL_S, write_jpeg, scanlines, channels), JPEG)
    count, height, _ = scanlines.shape
    pixels = scanlines[:, :, 1:].reshape(count, height, -1, channels)
    array = await request.run(size * BYTE_S, little_endian, pixels, np.dtype(np.uint8), 3)
    return await array_response(request, media_type, array)
