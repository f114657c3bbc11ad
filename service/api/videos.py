"""What routes do for models of videos: shapes, and frames as files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from math import prod
from typing import TYPE_CHECKING, cast

import numpy as np
from starlette.responses import Response

from service.api.bodies import Accepts
from service.api.offloading import OPENING_S, PIXEL_S
from service.api.request import Request
from service.api.responses import IMAGE_OFFERS, ByteArray, BytesResponse, FloatArray
from service.api.streaming import StreamedResponse
from service.errors import InvalidInput, NotFound, Problem
from service.formats.videos import MP4, VIDEO_TYPES, WEBP, WRITER_BYTES, check_video, write_video
from service.inference.engine import Engine
from service.limits import Limits
from vae.config import VAEConfig
from vae.diffusion.config import DiffusionConfig

if TYPE_CHECKING:
    from service.formats.mp4 import Mp4Writer

Config = VAEConfig | DiffusionConfig
VIDEO_OFFERS = (*IMAGE_OFFERS, *VIDEO_TYPES)
FRAME_COPIES = 2
"""Copies of the frames: in pieces, and joined."""
SECONDS_PER_PIXEL = {MP4: PIXEL_S, WEBP: 2 * PIXEL_S}


def offers(config: Config) -> tuple[str, ...]:
    """Return the media types of images or of videos."""
    return VIDEO_OFFERS if config.is_video else IMAGE_OFFERS


def accepts_videos(config: Config) -> Accepts | None:
    """Return which shapes of videos can be encoded; None for models of images."""
    return config.accepts_shape if config.is_video else None


def accepts_latents(config: Config) -> Accepts | None:
    """Return which shapes of latents of videos can be decoded; None for models of images."""
    return (lambda shape: config.image_shape_of(shape) is not None) if config.is_video else None


def refuse_videos(config: Config, what: str) -> None:
    """Raise NotFound for models of videos, which `what` is not for."""
    if config.is_video:
        raise NotFound(f"{what} is for models of images; this one, {config.architecture}, is of videos.")


def sampled_shape(config: Config, frames: int | None) -> tuple[int, ...]:
    """Return the shape of the latent of a video with `frames`, of the nominal size; raises InvalidInput."""
    if frames is None:
        return config.latent_shape
    if not isinstance(config, DiffusionConfig) or not config.is_video:
        raise InvalidInput(Problem("query", "/frames", "frames: this model makes images, which have no frames."))
    channels, _, *size = config.image_shape
    if config.accepts_shape((channels, frames, *size)):
        return config.latent_shape_of((channels, frames, *size))
    lengths = ", ".join(map(str, config.frames_near(frames)))
    problem = f"frames is {frames}; this model decodes latents to videos of {lengths} frames."
    raise InvalidInput(Problem("query", "/frames", problem))


def check_file(limits: Limits, media_type: str, count: int, shape: tuple[int, ...]) -> int:
    """Check that `count` videos of `shape` (C, T, H, W) can be a file, and return the bytes of memory that it takes.

    Raises InvalidInput, NotAcceptable or TooLarge.
    """
    if count != 1:
        problem = f"{media_type} has one video, and there would be {count}. Ask for one, or for an array."
        raise InvalidInput(Problem("body", "", problem))
    *_, height, width = shape
    check_video(media_type, height, width)
    limits.check_pixels(1, shape, "The video")
    return prod(shape[1:]) * WRITER_BYTES + FRAME_COPIES * prod(shape)


async def decode_video(
    request: Request,
    engine: Engine,
    media_type: str,
    z: FloatArray,
    fps: float | None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Decode one latent (1, …) to a file of a video; an MP4 is sent while it is computed."""
    if media_type == MP4:
        return await StreamedResponse.begin(_mp4(request, engine, z, _rate(engine, fps)), MP4, headers)
    return await decode_file(request, engine, media_type, z, fps, headers)


async def decode_file(
    request: Request,
    engine: Engine,
    media_type: str,
    z: FloatArray,
    fps: float | None,
    headers: Mapping[str, str] | None = None,
) -> BytesResponse:
    """Decode one latent (1, …) to the whole file of a video; frames are kept as bytes from the first piece on."""
    pieces = [frames async for frames in engine.decode_pieces(z, timing=request.timing)]
    return await video_response(request, engine, media_type, pieces, fps, headers)


async def video_response(
    request: Request,
    engine: Engine,
    media_type: str,
    pieces: Sequence[ByteArray],
    fps: float | None,
    headers: Mapping[str, str] | None = None,
) -> BytesResponse:
    """Return a video, of which each piece has frames (T, H, W, C), as a file."""

    def write() -> bytes:
        return write_video(media_type, np.concatenate(pieces), _rate(engine, fps))

    pixels = sum(prod(frames.shape[:3]) for frames in pieces)
    body = await request.run(max(OPENING_S, pixels * SECONDS_PER_PIXEL[media_type]), write)
    return BytesResponse(body, media_type, headers)


def frames_of(scanlines: ByteArray, channels: int) -> ByteArray:
    """Return the frames (T, H, W, C) of one video's scanlines (1, T, H, 1 + W·C)."""
    return scanlines[0, ..., 1:].reshape(*scanlines.shape[1:-1], -1, channels)


def _rate(engine: Engine, fps: float | None) -> float:
    return fps or cast("DiffusionConfig", engine.config).frame_rate


async def _mp4(request: Request, engine: Engine, z: FloatArray, fps: float) -> AsyncGenerator[bytes]:
    """Write a video in pieces, as it is decoded."""
    shape = engine.config.image_shape_of(z.shape[1:]) or engine.config.image_shape
    *_, height, width = shape
    seconds = max(OPENING_S, prod(shape[1:]) * PIXEL_S)  # as of one piece: in the same threads all the time

    def begin() -> Mp4Writer:
        from service.formats.mp4 import Mp4Writer  # noqa: PLC0415 - an extra, whose import takes a while

        return Mp4Writer(height, width, fps)

    writer = await request.run(seconds, begin)
    async with aclosing(engine.decode_pieces(z, timing=request.timing)) as pieces:
        async for frames in pieces:
            if written := await request.run(seconds, writer.write, frames):
                yield written
    yield await request.run(seconds, writer.close)
