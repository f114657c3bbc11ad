"""Arrays → answers: PNG, JSON or npy, as the caller's Accept header asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from starlette.responses import Response

from service import errors
from service.bodies import JSON
from service.errors import ServiceError, problem_document
from service.images import write_png
from service.npy import MEDIA_TYPE as NPY
from service.npy import write_npy
from service.schemas import PngOptions

PNG = "image/png"
FloatArray = npt.NDArray[np.float32]

PIECE = 100_000
"""Values that are written in one go; for more the event loop is let breathe, or a thread does it."""


class Answer(Response):
    """An answer whose header fields are written once, as bytes."""

    def __init__(
        self, body: bytes, media_type: str, headers: Mapping[str, str] | None = None, status: int = 200
    ) -> None:
        self.body = body
        self.status_code = status
        self.background = None
        self.raw_headers = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % len(body))]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.lower().encode(), value.encode()))


def refuse(error: ServiceError) -> Answer:
    """An error as an answer, RFC 9457."""
    return Answer(problem_document(error), errors.MEDIA_TYPE, error.headers, error.status)


async def json(fields: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON object whose values may be arrays; float32 is written with as few digits as tell it."""
    members = [orjson.dumps(name) + b":" + await _json_value(value) for name, value in fields.items()]
    return Answer(b"{" + b",".join(members) + b"}", JSON, headers)


async def images(
    media_type: str,
    pixels: FloatArray,
    options: PngOptions,
    *,
    single: bool,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Images (N, C, H, W) in [0, 1]; where they are a `single` one, JSON and npy give it without the N."""
    if media_type == PNG:
        if pixels.size * options.scale**2 <= PIECE:
            png = write_png(pixels, columns=options.columns, scale=options.scale)
        else:
            png = await asyncio.to_thread(write_png, pixels, columns=options.columns, scale=options.scale)
        return Answer(png, PNG, headers)
    rows = pixels[0] if single else pixels
    return Answer(write_npy(rows), NPY, headers) if media_type == NPY else await json({"pixels": rows}, headers)


async def walk(
    media_type: str,
    z: FloatArray,
    pixels: FloatArray,
    options: PngOptions,
    headers: Mapping[str, str] | None = None,
    **fields: int,
) -> Answer:
    """Latents (N, D) that the service chose, with their images; `fields` go before them in JSON."""
    if media_type == JSON:
        return await json({**fields, "z": z, "pixels": pixels}, headers)
    return await images(media_type, pixels, options, single=False, headers=headers)


async def _json_value(value: Any) -> bytes:
    if not isinstance(value, np.ndarray) or value.size <= PIECE:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    rows = max(1, PIECE * len(value) // value.size)
    pieces = []
    for start in range(0, len(value), rows):
        pieces.append(orjson.dumps(value[start : start + rows], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        await asyncio.sleep(0)
    return b"[" + b",".join(pieces) + b"]"
