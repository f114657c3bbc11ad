"""/remote/encode: pictures or tensors → latents."""

from __future__ import annotations

import numpy as np
from starlette.responses import Response

from pictures.opening import FORMATS
from service.api.context import ModelContext, model_context
from service.api.negotiation import negotiate
from service.api.offloading import VALUE_S
from service.api.pictures import PictureReader
from service.api.remote.bodies import TENSOR, read_body
from service.api.remote.options import Config, TensorOptions
from service.api.remote.shapes import batch_of, check_patches, wrong_shape
from service.api.remote.tensors import array_response, little_endian, read_tensor, tensor_memory, tensor_types
from service.api.request import Request
from service.api.responses import FloatArray
from service.errors import InvalidInput, Problem
from service.formats.arrays import Array
from service.inference.backend import numpy_dtype
from service.limits import Limits
from vae.diffusion.config import DiffusionConfig
from vae.metadata import Fit

PIXEL_BOUND = 4
"""Largest absolute value of a pixel: decoded images exceed [-1, 1] a little, images of another range more."""


async def encode(request: Request, options: TensorOptions) -> Response:
    """Encode a picture, or a tensor of images, to the mean of its posterior q(z|x), for `remote_encode` of diffusers.

    With `shape`, the body is a tensor (N, C, H, W) in [-1, 1], as AutoencoderKL takes it; without, it is a picture.
    Models of videos take tensors (N, C, T, H, W) alone.
    """
    context = model_context(request)
    limits, config = context.limits, context.engine.config
    body, options = await read_body(request, options, limits, (TENSOR, *FORMATS))
    media_type = negotiate(request.field(b"accept"), tensor_types(options))
    if options.shape or config.is_video:

        def read() -> FloatArray:
            return _images(read_tensor(body, options, request.reserve), config, limits)

        images = await request.run(len(body) * VALUE_S, read)
    else:
        images = await _picture_reader(request, context).read(body)
    normalisation = options.normalisation(config)
    if isinstance(config, DiffusionConfig):
        check_patches(normalisation, config.latent_shape_of(images.shape[1:]))
    mean, _ = await context.engine.encode(images, timing=request.timing)
    request.reserve(tensor_memory(media_type, mean.size))

    def write() -> Array:
        with np.errstate(over="ignore"):
            latents = little_endian(normalisation.normalise(mean), numpy_dtype(options.dtype))
        if not np.isfinite(latents.astype(np.float32)).all():
            problem = f"The scaled latents exceed the range of {options.dtype}."
            raise InvalidInput(Problem("query", "/scaling_factor", problem))
        return latents

    return await array_response(request, media_type, await request.run(mean.size * VALUE_S, write))


def _images(x: FloatArray, config: Config, limits: Limits) -> FloatArray:
    """Check images (N, C, H, W), or videos, in [-1, 1] and scale them to [0, 1]."""
    if x.ndim != 1 + len(config.image_shape) or not config.accepts_shape(x.shape[1:]):
        multiple = config.stride if isinstance(config, DiffusionConfig) else 1
        frames = x.shape[2] if config.is_video and x.ndim == 5 else None
        raise wrong_shape(x.shape, batch_of(config.image_shape, config, multiple, frames))
    limits.check_batch(len(x))
    limits.check_pixels(len(x), x.shape[1:])
    if not (np.abs(x) <= PIXEL_BOUND).all():
        raise InvalidInput(Problem("body", "", "The tensor has numbers far outside [-1, 1]; scale it to this range."))
    return (x + np.float32(1)) / np.float32(2)


def _picture_reader(request: Request, context: ModelContext) -> PictureReader:
    """Return a reader that keeps a picture's size where the model takes any size."""
    config = context.engine.config
    fit: Fit = "stretch" if isinstance(config, DiffusionConfig) else context.fit
    return PictureReader(request, context.limits, config.image_shape_near, fit=fit, invert=False)
