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
from service.api.remote.options import Config, RemoteDecodeOptions
from service.api.remote.shapes import check_jpeg, check_single, refuse_images
from service.api.remote.tensors import (
    array_response,
    bytes_response,
    little_endian,
    read_tensor,
    tensor_memory,
    tensor_types,
)
from service.api.request import Request
from service.api.responses import PNG, ByteArray, BytesResponse, FloatArray, png_response
from service.api.schemas import PngOptions
from service.api.videos import check_file, decode_file
from service.formats.images import write_jpeg
from service.formats.videos import MP4
from service.inference.backend import numpy_dtype
from service.inference.engine import Engine

JPEG = "image/jpeg"
MP4_TYPES = (MP4, "text/plain")
"""What `Accept` may have for an MP4: diffusers sends text/plain."""
PICTURES = {None: (JPEG, PNG), "jpg": (JPEG,), "png": (PNG,)}
"""`image_format` → media types."""
IMAGE_BYTES = 12
"""Bytes per number of an image in a response: as float32, in its dtype, and in a grid."""


async def decode(request: Request, options: RemoteDecodeOptions) -> Response:
    """Decode a latent, or a batch, to its image, for `remote_decode` of diffusers, for SD.Next and for ComfyUI.

    `output_type=pil` gives a picture, or the tensor (N, C, H, W) in [0, 1] if `Accept` asks for a tensor, as for
    diffusers' video models. Tensors have a batch axis even if the latent has none.

    Of a video `pt` is (N, C, T, H, W), the tensor of `pil` is that of its frames, (T, C, H, W), its picture a grid of
    them, and `mp4` a file.
    """
    context = model_context(request)
    engine = context.engine
    body, options = await read_body(request, options, context.limits, (TENSOR,))
    media_type = _media_type(request, options, engine.config)

    def read() -> tuple[FloatArray, tuple[int, ...]]:
        return read_latents(read_tensor(body, options, request.reserve), options, engine.config, context.limits)

    z, image_shape = await request.run(len(body) * VALUE_S, read)
    channels, *frames, height, width = image_shape
    if frames and (options.output_type != "pt" or options.partial_postprocess):
        check_single(len(z))
    if media_type == JPEG:
        check_jpeg(len(z) * prod(frames), (channels, height, width))
    size = len(z) * prod(image_shape)
    if media_type == MP4:
        request.reserve(check_file(context.limits, MP4, len(z), image_shape))
    else:
        numbers = size * (3 if channels == 1 else 1)
        request.reserve(numbers * IMAGE_BYTES + tensor_memory(media_type, numbers))
    await count_distances(request, context, z)
    if options.output_type == "pt" and not options.partial_postprocess:
        tensors = await engine.decode_raw(z, options.dtype, timing=request.timing)
        return await bytes_response(request, media_type, tensors.data.cast("B"), (len(z), *image_shape), options.dtype)
    if media_type not in (JPEG, PNG) and options.output_type == "pil":
        images = await engine.decode(z, timing=request.timing)
        if frames:
            images = images[0].swapaxes(0, 1)
        array = await request.run(size * VALUE_S, little_endian, images, numpy_dtype(options.dtype), 1)
        return await array_response(request, media_type, array)
    if media_type == MP4:
        return await decode_file(request, engine, MP4, z, options.fps)
    scanlines = await engine.decode_scanlines(z, timing=request.timing)
    if media_type in (JPEG, PNG):
        return await _picture(request, engine, media_type, scanlines)
    pixels = scanlines[..., 1:].reshape(-1, height, width, channels)
    array = await request.run(size * BYTE_S, little_endian, pixels, np.dtype(np.uint8), 3)
    return await array_response(request, media_type, array)


def _media_type(request: Request, options: RemoteDecodeOptions, config: Config) -> str:
    """Choose the type of the response; raises NotAcceptable, or InvalidInput for the video of a model of images."""
    accept = request.field(b"accept")
    if options.output_type == "mp4":
        refuse_images(config)
        negotiate(accept, MP4_TYPES)
        return MP4
    pictures = PICTURES[options.image_format] if options.output_type == "pil" else ()
    return negotiate(accept, (*pictures, *tensor_types(options)))


async def _picture(request: Request, engine: Engine, media_type: str, scanlines: ByteArray) -> Response:
    """Return images, or the frames of a video, as a PNG or JPEG."""
    channels = engine.config.image_shape[0]
    if media_type == PNG:
        return await png_response(request, scanlines, channels, PngOptions(columns=None, scale=1))
    images = scanlines.reshape(-1, *scanlines.shape[-2:])
    return BytesResponse(await request.run(images.size * PIXEL_S, write_jpeg, images, channels), JPEG)
