"""Arrays → answers: PNG, JSON or npy, as the caller's Accept header asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from starlette.responses import Response

from service.bodies import JSON
from service.images import write_png
from service.npy import MEDIA_TYPE as NPY
from service.npy import write_npy
from service.schemas import PngOptions

PNG = "image/png"
FloatArray = npt.NDArray[np.float32]

PIECE = 100_000
"""Values that are written in one go; for more the event loop is let breathe, or a thread does it."""


def answer(body: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer as it is."""
    return Response(body, headers=headers, media_type=media_type)


async def json(fields: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A JSON object whose values may be arrays; float32 is written with as few digits as tell it."""
    members = [orjson.dumps(name) + b":" + await _json_value(value) for name, value in fields.items()]
    return answer(b"{" + b",".join(members) + b"}", JSON, headers)


async def images(
    media_type: str,
    pixels: FloatArray,
    options: PngOptions,
    *,
    single: bool,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Images (N, C, H, W) in [0, 1]; where they are a `single` one, JSON and npy give it without the N."""
    if media_type == PNG:
        if pixels.size * options.scale**2 <= PIECE:
            png = write_png(pixels, columns=options.columns, scale=options.scale)
        else:
            png = await asyncio.to_thread(write_png, pixels, columns=options.columns, scale=options.scale)
        return answer(png, PNG, headers)
    rows = pixels[0] if single else pixels
    return answer(write_npy(rows), NPY, headers) if media_type == NPY else await json({"pixels": rows}, headers)


async def walk(
    media_type: str,
    z: FloatArray,
    pixels: FloatArray,
    options: PngOptions,
    headers: Mapping[str, str] | None = None,
    **fields: int,
) -> Response:
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
