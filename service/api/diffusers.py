"""Hugging Face diffusers' remote VAE: `remote_decode` and `remote_encode` of diffusers.utils.remote_utils.

A tensor is raw bytes, little-endian; its shape and dtype are query parameters of a request, and header fields of a
response. Unknown parameters are ignored: they are for other endpoints' models. A diffusion model's latents are
(z − shift_factor)·scaling_factor; `do_scaling` takes both from the model's configuration, and either parameter
overrides one.

A model whose latents are vectors, (N, D), is served too. Its grey images become RGB where diffusers makes pictures of
them itself.
"""

from __future__ import annotations

from math import ceil, prod, sqrt
from reprlib import repr as brief
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from pictures.opening import FORMATS
from service.api.context import ModelContext, count_distances, model_context
from service.api.negotiation import negotiate
from service.api.offloading import BYTE_S, PIXEL_S, VALUE_S
from service.api.pictures import PictureReader
from service.api.request import Request
from service.api.responses import PNG, ByteArray, BytesResponse, FloatArray, png_response
from service.api.schemas import LATENT_BOUND, PngOptions
from service.errors import InvalidInput, Problem, TooLarge, UnreadableBody, UnsupportedMediaType
from service.formats.images import write_jpeg
from service.inference.backend import numpy_dtype
from service.limits import Limits
from service.memory_budget import Reserve
from vae.config import AutoencoderKLConfig, VAEConfig
from vae.metadata import Fit

TENSOR, JPEG = "tensor/binary", "image/jpeg"
GENERIC_TYPES = ("", "application/octet-stream")
"""Content types that do not describe a body; remote_encode sends none."""
MAX_TILES = 36
"""Most tiles in which an image is computed: those of one four times as high and wide as the model's. The computation of
an image cannot be cancelled."""
JPEG_SIDE = 65_500
"""Longest side in pixels; this is libjpeg's limit, the format's is 65,535."""
TENSOR_BYTES = 12
"""Bytes per number that checking and scaling a tensor allocate."""
IMAGE_BYTES = 12
"""Bytes per number of an image in a response: as float32, in its dtype, and in a grid."""
PIXEL_BOUND = 4
"""Largest absolute value of a pixel: decoded images exceed [-1, 1] a little, images of another range more."""

Config = VAEConfig | AutoencoderKLConfig
Size = Annotated[int, Field(ge=1, le=2**31)]
Factor = Annotated[float, Field(ge=1 / LATENT_BOUND, le=LATENT_BOUND, allow_inf_nan=False)]
Shift = Annotated[float, Field(ge=-LATENT_BOUND, le=LATENT_BOUND, allow_inf_nan=False)]


class TensorOptions(BaseModel):
    """Query of /remote/encode."""

    model_config = ConfigDict(frozen=True)

    shape: tuple[Size, ...] = Field(
        (), max_length=4, description="Shape of the tensor in the body, one value per parameter."
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float32", description="Data type of the tensors in the request and in the response."
    )
    do_scaling: bool = Field(False, description="Scale latents by the factors of the model's configuration.")
    scaling_factor: Factor | None = Field(None, description="Scale latents by this factor.")
    shift_factor: Shift | None = Field(None, description="Shift latents by this term.")

    def scaling(self, config: Config) -> tuple[float, float]:
        """Return the scaling factor and the shift factor."""
        factor, shift = (config.scaling_factor, config.shift_factor) if self.do_scaling else (1.0, 0.0)
        factor = factor if self.scaling_factor is None else self.scaling_factor
        shift = shift if self.shift_factor is None else self.shift_factor
        return factor, shift


class RemoteDecodeOptions(TensorOptions):
    """Query of /remote/decode."""

    output_type: Literal["pil", "pt"] = Field("pil", description="A picture (pil), or a tensor (pt).")
    image_format: Literal["jpg", "png"] = Field("jpg", description="File format of a picture.")
    partial_postprocess: bool = Field(
        False, description="Return tensors as uint8 (N, H, W, 3) instead of (N, C, H, W) in about [-1, 1]."
    )
    height: Size | None = Field(None, description="Height of the image, for packed latents, (N, h·w/4, 4·C').")
    width: Size | None = Field(None, description="Width of the image, for packed latents.")


async def decode(request: Request, options: RemoteDecodeOptions) -> Response:
    """Decode a latent, or a batch, to its image, for `remote_decode` of diffusers.

    `output_type=pil` gives a picture, or the tensor (N, C, H, W) in [0, 1] if `Accept` asks for tensor/binary, as for
    diffusers' video models.
    """
    picture = PNG if options.image_format == "png" else JPEG
    offers = (picture, TENSOR) if options.output_type == "pil" else (TENSOR,)
    media_type = negotiate(request.field(b"accept"), offers)
    context = model_context(request)
    engine = context.engine
    if request.media_type not in (TENSOR, *GENERIC_TYPES):
        raise UnsupportedMediaType(f"The content type is {brief(request.media_type)}; this route takes {TENSOR}.")
    body = await request.read(context.limits.body)

    def read() -> tuple[FloatArray, tuple[int, int, int]]:
        return _latents(_read_tensor(body, options, request.reserve), options, engine.config, context.limits)

    z, image_shape = await request.run(len(body) * VALUE_S, read)
    if media_type == JPEG:
        _check_jpeg(len(z), image_shape)
    size = len(z) * prod(image_shape)
    request.reserve(size * (3 if image_shape[0] == 1 else 1) * IMAGE_BYTES)
    await count_distances(request, context, z)
    if options.output_type == "pt" and not options.partial_postprocess:
        tensors = await engine.decode_raw(z, options.dtype, timing=request.timing)
        return _bytes_response(tensors.data.cast("B"), (len(z), *image_shape), options.dtype)
    if media_type == TENSOR and options.output_type == "pil":
        images = await engine.decode(z, timing=request.timing)
        return await request.run(size * VALUE_S, _tensor_response, images, numpy_dtype(options.dtype), 1)
    scanlines, channels = await engine.decode_scanlines(z, timing=request.timing), engine.config.image_shape[0]
    if media_type == PNG:
        return await png_response(request, scanlines, channels, PngOptions(columns=None, scale=1))
    if media_type == JPEG:
        return BytesResponse(await request.run(size * PIXEL_S, write_jpeg, scanlines, channels), JPEG)
    count, height, _ = scanlines.shape
    pixels = scanlines[:, :, 1:].reshape(count, height, -1, channels)
    return await request.run(size * BYTE_S, _tensor_response, pixels, np.dtype(np.uint8), 3)


async def encode(request: Request, options: TensorOptions) -> Response:
    """Encode a picture, or a tensor of images, to the mean of its posterior q(z|x), for `remote_encode` of diffusers.

    With `shape`, the body is a tensor (N, C, H, W) in [-1, 1], as AutoencoderKL takes it; without, it is a picture.
    """
    negotiate(request.field(b"accept"), (TENSOR,))
    context = model_context(request)
    limits, config = context.limits, context.engine.config
    if request.media_type not in (*FORMATS, TENSOR, *GENERIC_TYPES):
        types = ", ".join((*FORMATS, TENSOR))
        raise UnsupportedMediaType(f"The content type is {brief(request.media_type)}; this route takes {types}.")
    body = await request.read(limits.body)
    if options.shape:

        def read() -> FloatArray:
            return _images(_read_tensor(body, options, request.reserve), config, limits)

        images = await request.run(len(body) * VALUE_S, read)
    else:
        images = await _picture_reader(request, context).read(body)
    mean, _ = await context.engine.encode(images, timing=request.timing)
    factor, shift = options.scaling(config)

    def write() -> BytesResponse:
        with np.errstate(over="ignore"):
            latents = ((mean - shift) * factor).astype(numpy_dtype(options.dtype))
        if not np.isfinite(latents.astype(np.float32)).all():
            problem = f"The scaled latents exceed the range of {options.dtype}."
            raise InvalidInput(Problem("query", "/scaling_factor", problem))
        return _tensor_response(latents, latents.dtype)

    return await request.run(mean.size * VALUE_S, write)


def _read_tensor(body: bytes, options: TensorOptions, reserve: Reserve) -> FloatArray:
    """Read the tensor in a body as float32."""
    dtype, size = numpy_dtype(options.dtype), prod(options.shape)
    if not options.shape:
        raise InvalidInput(Problem("query", "/shape", "shape is missing; send the shape of the tensor in the body."))
    if len(body) != size * dtype.itemsize:
        tensor = f"a {options.dtype} tensor of the shape {list(options.shape)}"
        raise UnreadableBody(f"The body has {len(body)} bytes; {tensor} has {size * dtype.itemsize}.")
    reserve(TENSOR_BYTES * size)
    return np.frombuffer(body, dtype).reshape(options.shape).astype(np.float32)


def _latents(
    z: FloatArray, options: RemoteDecodeOptions, config: Config, limits: Limits
) -> tuple[FloatArray, tuple[int, int, int]]:
    """Check latents (N, …) and undo their scaling; return them and the shape of their images."""
    if z.ndim == 3 and isinstance(config, AutoencoderKLConfig):
        z = _unpack(z, options, config)
    image_shape = config.image_shape_of(z.shape[1:])
    if image_shape is None:
        raise _wrong_shape(options.shape, ["N", *config.latent_shape], config)
    limits.check_batch(len(z))
    limits.check_pixels(len(z), image_shape)
    _check_tiles(config, image_shape)
    factor, shift = options.scaling(config)
    extremes = (float(extreme) / factor + shift for extreme in (z.min(), z.max()))
    if not all(-LATENT_BOUND <= extreme <= LATENT_BOUND for extreme in extremes):  # refuses NaN too
        problem = f"The tensor has numbers that are not finite or, scaled, beyond ±{LATENT_BOUND:g}."
        raise InvalidInput(Problem("body", "", problem))
    return z / factor + shift, image_shape


def _unpack(z: FloatArray, options: RemoteDecodeOptions, config: AutoencoderKLConfig) -> FloatArray:
    """Unpack Flux's latents, (N, h/2·w/2, C'·2·2), to (N, C', h, w)."""
    side, channels = 2 * config.stride, config.latent_shape[0]
    rows, columns = (options.height or 0) // side, (options.width or 0) // side
    if z.shape[1:] != (rows * columns, 4 * channels):
        expected = f"[N, (height/{side})·(width/{side}), {4 * channels}], with the height and width of the image,"
        raise InvalidInput(Problem("query", "/shape", f"shape is {list(options.shape)}; {expected} is expected."))
    patches = z.reshape(-1, rows, columns, channels, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    return patches.reshape(-1, channels, 2 * rows, 2 * columns)


def _images(x: FloatArray, config: Config, limits: Limits) -> FloatArray:
    """Check images (N, C, H, W) in [-1, 1] and scale them to [0, 1]."""
    if x.ndim != 4 or not config.accepts_shape(x.shape[1:]):
        multiple = config.stride if isinstance(config, AutoencoderKLConfig) else 1
        raise _wrong_shape(x.shape, ["N", *config.image_shape], config, multiple)
    limits.check_batch(len(x))
    shape = (x.shape[1], x.shape[2], x.shape[3])
    limits.check_pixels(len(x), shape)
    _check_tiles(config, shape)
    if not (np.abs(x) <= PIXEL_BOUND).all():
        raise InvalidInput(Problem("body", "", "The tensor has numbers far outside [-1, 1]; scale it to this range."))
    return (x + np.float32(1)) / np.float32(2)


def _picture_reader(request: Request, context: ModelContext) -> PictureReader:
    """Return a reader that keeps a picture's size where the model takes any size."""
    config = context.engine.config

    def shape_for(height: int, width: int) -> tuple[int, int, int]:
        shape = config.image_shape_near(height, width)
        _check_tiles(config, shape)
        return shape

    fit: Fit = "stretch" if isinstance(config, AutoencoderKLConfig) else context.fit
    return PictureReader(request, context.limits, shape_for, fit=fit, invert=False)


def _check_tiles(config: Config, image_shape: tuple[int, int, int]) -> None:
    """Raise TooLarge for an image whose computation would occupy the engine for too long."""
    if isinstance(config, AutoencoderKLConfig) and (tiles := config.tiles(image_shape)) > MAX_TILES:
        _, height, width = image_shape
        side = config.tile * config.stride
        limit = f"{tiles} overlapping tiles of {side}×{side}; at most {MAX_TILES} are allowed"
        raise TooLarge(f"An image of {height}×{width} pixels is computed in {limit}.")


def _check_jpeg(count: int, image_shape: tuple[int, int, int]) -> None:
    """Raise TooLarge for a grid, as square as possible, that exceeds the size of a JPEG."""
    _, height, width = image_shape
    columns = ceil(sqrt(count))
    height, width = ceil(count / columns) * height, columns * width
    if max(height, width) > JPEG_SIDE:
        sides = f"{height}×{width} pixels; a JPEG has at most {JPEG_SIDE} on a side"
        raise TooLarge(f"The picture would have {sides}. Ask for image_format=png or output_type=pt.")


def _wrong_shape(shape: tuple[int, ...], expected: list[str | int], config: Config, multiple: int = 1) -> InvalidInput:
    multiples = f", multiples of {multiple}" if multiple > 1 else ""
    sizes = f" (of any height and width{multiples})" if isinstance(config, AutoencoderKLConfig) else ""
    wanted = f"[{', '.join(map(str, expected))}]{sizes}"
    return InvalidInput(Problem("query", "/shape", f"shape is {list(shape)}; {wanted} is expected."))


def _tensor_response(
    array: FloatArray | ByteArray, dtype: np.dtype[Any], channels_axis: int | None = None
) -> BytesResponse:
    """Return an array as `dtype`; grey images with their channel on `channels_axis` become RGB."""
    if channels_axis is not None and array.shape[channels_axis] == 1:
        array = array.repeat(3, channels_axis)
    values = np.ascontiguousarray(array.astype(dtype, copy=False))
    return _bytes_response(values.reshape(-1).view(np.uint8).data, array.shape, dtype.name)


def _bytes_response(body: bytes | memoryview, shape: tuple[int, ...], dtype: str) -> BytesResponse:
    return BytesResponse(body, TENSOR, {"shape": str(list(shape)), "dtype": dtype})
