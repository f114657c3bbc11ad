"""Hugging Face diffusers' remote VAE: what `remote_decode` and `remote_encode` of diffusers.utils.remote_utils send.

A tensor is raw bytes, little-endian; its shape and dtype are parameters of the query, and header fields of an answer.
Parameters that are not known here are ignored: those of other endpoints' models. A diffusion model's latents are
(z − shift_factor)·scaling_factor: with `do_scaling` by the model's own two, with either parameter by that one.

A model whose latents are vectors is served too, (N, D). Its grey images are given as RGB where diffusers makes pictures
of them by itself.
"""

from __future__ import annotations

from math import ceil, prod, sqrt
from reprlib import repr as brief
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from pictures.opening import FORMATS
from service.api.context import ModelContext, count_distances
from service.api.negotiation import negotiate
from service.api.offloading import BYTE_S, PIXEL_S, VALUE_S
from service.api.pictures import PictureReader
from service.api.request import Request
from service.api.responses import PNG, Answer, ByteArray, FloatArray, png
from service.api.schemas import LATENT_BOUND, PngOptions
from service.errors import InvalidInput, Problem, TooLarge, UnreadableBody, UnsupportedMediaType
from service.formats.images import write_jpeg
from service.inference.backend import DTYPES
from service.limits import Limits
from service.memory_budget import Reserve
from vae.config import AutoencoderKLConfig, VAEConfig
from vae.metadata import Fit

TENSOR, JPEG = "tensor/binary", "image/jpeg"
UNTOLD = ("", "application/octet-stream")
"""Content types that say nothing of a body; remote_encode sends none."""
MOST_TILES = 36
"""That an image is computed in: of one four times as high and wide as the nominal one. A row that is being computed is
computed to its end, whoever has gone meanwhile."""
JPEG_SIDE = 65_500
"""Pixels; the format's own bound is 65,535, that of libjpeg is this."""
TENSOR_BYTES = 12
"""A number, that checking a tensor and scaling it takes."""
IMAGE_BYTES = 12
"""A number of an image that is given, as float32, in its dtype and on a sheet."""
PIXEL_BOUND = 4
"""A decoder's images go a little beyond [-1, 1]; what goes as far as this has another range."""

Config = VAEConfig | AutoencoderKLConfig
Size = Annotated[int, Field(ge=1, le=2**31)]
Factor = Annotated[float, Field(ge=1 / LATENT_BOUND, le=LATENT_BOUND, allow_inf_nan=False)]
Shift = Annotated[float, Field(ge=-LATENT_BOUND, le=LATENT_BOUND, allow_inf_nan=False)]


class TensorOptions(BaseModel):
    """Query of /remote/encode."""

    model_config = ConfigDict(frozen=True)

    shape: tuple[Size, ...] = Field((), max_length=4, description="Of the tensor in the body, one value after another.")
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float32", description="Of the tensor in the body, and of one that is answered."
    )
    do_scaling: bool = Field(False, description="Scale latents as the model's configuration says.")
    scaling_factor: Factor | None = Field(None, description="Scale latents by this one.")
    shift_factor: Shift | None = Field(None, description="Shift latents by this one.")

    def scaling(self, config: Config) -> tuple[float, float]:
        """Scaling factor and shift factor."""
        factor, shift = (config.scaling_factor, config.shift_factor) if self.do_scaling else (1.0, 0.0)
        factor = factor if self.scaling_factor is None else self.scaling_factor
        shift = shift if self.shift_factor is None else self.shift_factor
        return factor, shift


class RemoteDecodeOptions(TensorOptions):
    """Query of /remote/decode."""

    output_type: Literal["pil", "pt"] = Field("pil", description="A picture, or a tensor.")
    image_format: Literal["jpg", "png"] = Field("jpg", description="Of a picture.")
    partial_postprocess: bool = Field(
        False, description="Tensors are uint8 (N, H, W, 3), in place of the dtype (N, C, H, W) in about [-1, 1]."
    )
    height: Size | None = Field(None, description="Of the image, where its latent is packed, (N, h·w/4, 4·C').")
    width: Size | None = Field(None, description="Of the image, where its latent is packed.")


async def decode(request: Request, options: Annotated[RemoteDecodeOptions, Query()]) -> Response:
    """A latent (or a batch) to its image, for `remote_decode` of diffusers.

    A picture by `output_type=pil`; where `Accept` asks for tensor/binary, as for diffusers' video models, the tensor
    (N, C, H, W) in [0, 1] in its place.
    """
    picture = PNG if options.image_format == "png" else JPEG
    offers = (picture, TENSOR) if options.output_type == "pil" else (TENSOR,)
    media_type = negotiate(request.field(b"accept"), offers)
    loaded: ModelContext = request.scope["app"].state["loaded"]
    engine = loaded.engine
    if request.media_type not in (TENSOR, *UNTOLD):
        raise UnsupportedMediaType(f"The content type is {brief(request.media_type)}; this route takes {TENSOR}.")
    body = await request.read(loaded.limits.body)

    def read() -> tuple[FloatArray, tuple[int, int, int]]:
        return _latents(_read_tensor(body, options, request.reserve), options, engine.config, loaded.limits)

    z, image_shape = await request.run(len(body) * VALUE_S, read)
    if media_type == JPEG:
        _check_jpeg(len(z), image_shape)
    size = len(z) * prod(image_shape)
    request.reserve(size * (3 if image_shape[0] == 1 else 1) * IMAGE_BYTES)
    await count_distances(request, loaded, z)
    if options.output_type == "pt" and not options.partial_postprocess:
        tensors = await engine.decode_raw(z, options.dtype, timing=request.timing)
        return _answer(tensors.data.cast("B"), (len(z), *image_shape), options.dtype)
    if media_type == TENSOR and options.output_type == "pil":
        images = await engine.decode(z, timing=request.timing)
        return await request.run(size * VALUE_S, _tensor, images, DTYPES[options.dtype], 1)
    scanlines, channels = await engine.decode_scanlines(z, timing=request.timing), engine.config.image_shape[0]
    if media_type == PNG:
        return await png(request, scanlines, channels, PngOptions(columns=None, scale=1))
    if media_type == JPEG:
        return Answer(await request.run(size * PIXEL_S, write_jpeg, scanlines, channels), JPEG)
    count, height, _ = scanlines.shape
    pixels = scanlines[:, :, 1:].reshape(count, height, -1, channels)
    return await request.run(size * BYTE_S, _tensor, pixels, np.dtype(np.uint8), 3)


async def encode(request: Request, options: Annotated[TensorOptions, Query()]) -> Response:
    """A picture, or a tensor of images, to the mean of its posterior q(z|x), for `remote_encode` of diffusers.

    A tensor is (N, C, H, W) in [-1, 1], as AutoencoderKL takes it; a picture is one where no `shape` is given.
    """
    negotiate(request.field(b"accept"), (TENSOR,))
    loaded: ModelContext = request.scope["app"].state["loaded"]
    limits, config = loaded.limits, loaded.engine.config
    if request.media_type not in (*FORMATS, TENSOR, *UNTOLD):
        taken = ", ".join((*FORMATS, TENSOR))
        raise UnsupportedMediaType(f"The content type is {brief(request.media_type)}; this route takes {taken}.")
    body = await request.read(limits.body)
    if options.shape:

        def read() -> FloatArray:
            return _images(_read_tensor(body, options, request.reserve), config, limits)

        images = await request.run(len(body) * VALUE_S, read)
    else:
        images = await _picture_reader(request, loaded).read(body)
    mean, _ = await loaded.engine.encode(images, timing=request.timing)
    factor, shift = options.scaling(config)

    def write() -> Answer:
        with np.errstate(over="ignore"):
            latents = ((mean - shift) * factor).astype(DTYPES[options.dtype])
        if not np.isfinite(latents.astype(np.float32)).all():
            problem = f"The latents are beyond {options.dtype} where they are scaled so."
            raise InvalidInput(Problem("query", "/scaling_factor", problem))
        return _tensor(latents, latents.dtype)

    return await request.run(mean.size * VALUE_S, write)


def _read_tensor(body: bytes, options: TensorOptions, reserve: Reserve) -> FloatArray:
    """The tensor in a body, as float32."""
    dtype, size = DTYPES[options.dtype], prod(options.shape)
    if not options.shape:
        raise InvalidInput(Problem("query", "/shape", "shape is missing; that of the tensor in the body is wanted."))
    if len(body) != size * dtype.itemsize:
        tensor = f"a {options.dtype} tensor of the shape {list(options.shape)}"
        raise UnreadableBody(f"The body has {len(body)} bytes; {tensor} has {size * dtype.itemsize}.")
    reserve(TENSOR_BYTES * size)
    return np.frombuffer(body, dtype).reshape(options.shape).astype(np.float32)


def _latents(
    z: FloatArray, options: RemoteDecodeOptions, config: Config, limits: Limits
) -> tuple[FloatArray, tuple[int, int, int]]:
    """Latents (N, …) as the model takes them, checked, and the shape of their images."""
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
    if not all(-LATENT_BOUND <= extreme <= LATENT_BOUND for extreme in extremes):  # a NaN is not so either
        problem = f"The tensor holds numbers that are not finite or, scaled, beyond ±{LATENT_BOUND:g}."
        raise InvalidInput(Problem("body", "", problem))
    return z / factor + shift, image_shape


def _unpack(z: FloatArray, options: RemoteDecodeOptions, config: AutoencoderKLConfig) -> FloatArray:
    """Flux's packed latents, (N, h/2·w/2, C'·2·2) → (N, C', h, w)."""
    side, channels = 2 * config.stride, config.latent_shape[0]
    rows, columns = (options.height or 0) // side, (options.width or 0) // side
    if z.shape[1:] != (rows * columns, 4 * channels):
        wanted = f"[N, (height/{side})·(width/{side}), {4 * channels}], with the height and width of the image,"
        raise InvalidInput(Problem("query", "/shape", f"shape is {list(options.shape)}; {wanted} is wanted."))
    patches = z.reshape(-1, rows, columns, channels, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    return patches.reshape(-1, channels, 2 * rows, 2 * columns)


def _images(x: FloatArray, config: Config, limits: Limits) -> FloatArray:
    """Images (N, C, H, W) from [-1, 1] to [0, 1], checked."""
    if x.ndim != 4 or not config.accepts_shape(x.shape[1:]):
        multiple = config.stride if isinstance(config, AutoencoderKLConfig) else 1
        raise _wrong_shape(x.shape, ["N", *config.image_shape], config, multiple)
    limits.check_batch(len(x))
    shape = (x.shape[1], x.shape[2], x.shape[3])
    limits.check_pixels(len(x), shape)
    _check_tiles(config, shape)
    if not (np.abs(x) <= PIXEL_BOUND).all():
        raise InvalidInput(Problem("body", "", "The tensor holds numbers far outside [-1, 1]; scale it to that."))
    return (x + np.float32(1)) / np.float32(2)


def _picture_reader(request: Request, loaded: ModelContext) -> PictureReader:
    """A picture is of its own size where the model takes any."""
    config = loaded.engine.config

    def shape_for(height: int, width: int) -> tuple[int, int, int]:
        shape = config.image_shape_near(height, width)
        _check_tiles(config, shape)
        return shape

    fit: Fit = "stretch" if isinstance(config, AutoencoderKLConfig) else loaded.fit
    return PictureReader(request, loaded.limits, shape_for, fit=fit, invert=False)


def _check_tiles(config: Config, image_shape: tuple[int, int, int]) -> None:
    """Raise TooLarge for an image that would keep the engine for too long, in one go."""
    if isinstance(config, AutoencoderKLConfig) and (tiles := config.tiles(image_shape)) > MOST_TILES:
        _, height, width = image_shape
        side = config.tile * config.stride
        taken = f"{tiles} overlapping tiles of {side}×{side}; at most {MOST_TILES} are taken"
        raise TooLarge(f"An image of {height}×{width} pixels is computed in {taken}.")


def _check_jpeg(count: int, image_shape: tuple[int, int, int]) -> None:
    """Raise TooLarge for a sheet, as square as it can be, that is no JPEG."""
    _, height, width = image_shape
    columns = ceil(sqrt(count))
    height, width = ceil(count / columns) * height, columns * width
    if max(height, width) > JPEG_SIDE:
        sides = f"{height}×{width} pixels; a JPEG has at most {JPEG_SIDE} on a side"
        raise TooLarge(f"The picture would have {sides}. Ask for image_format=png or output_type=pt.")


def _wrong_shape(came: tuple[int, ...], wanted: list[str | int], config: Config, multiple: int = 1) -> InvalidInput:
    of = f", multiples of {multiple}" if multiple > 1 else ""
    freely = f" (of any height and width{of})" if isinstance(config, AutoencoderKLConfig) else ""
    shape = f"[{', '.join(map(str, wanted))}]{freely}"
    return InvalidInput(Problem("query", "/shape", f"shape is {list(came)}; {shape} is wanted."))


def _tensor(array: FloatArray | ByteArray, dtype: np.dtype[Any], channels_axis: int | None = None) -> Answer:
    """An array as an answer, of `dtype`; grey images whose channels are at `channels_axis` get three."""
    if channels_axis is not None and array.shape[channels_axis] == 1:
        array = array.repeat(3, channels_axis)
    values = np.ascontiguousarray(array.astype(dtype, copy=False))
    return _answer(values.reshape(-1).view(np.uint8).data, array.shape, dtype.name)


def _answer(body: bytes | memoryview, shape: tuple[int, ...], dtype: str) -> Answer:
    return Answer(body, TENSOR, {"shape": str(list(shape)), "dtype": dtype})
