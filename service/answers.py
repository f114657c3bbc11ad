"""Arrays → answers: PNG, JSON or npy, as the caller's Accept header asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import errors
from service.bodies import JSON
from service.errors import ServiceError, problem_document
from service.images import write_png
from service.npy import MEDIA_TYPE as NPY
from service.npy import write_npy
from service.schemas import PngOptions

PNG = "image/png"
ByteArray = npt.NDArray[np.uint8]
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})


def refuse(error: ServiceError) -> Answer:
    """An error as an answer, RFC 9457."""
    return Answer(problem_document(error), errors.MEDIA_TYPE, error.headers, error.status)


async def json(fields: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON object whose values may be arrays; float32 is written with as few digits as tell it."""
    if sum(np.size(value) for value in fields.values()) <= PIECE:
        return Answer(orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY), JSON, headers)
    members = [orjson.dumps(name) + b":" + await _json_value(value) for name, value in fields.items()]
    return Answer(b"{" + b",".join(members) + b"}", JSON, headers)


async def png(images: ByteArray, options: PngOptions, headers: Mapping[str, str] | None = None) -> Answer:
    """Images, uint8 (N, H, W, C), on one sheet."""
    write = partial(write_png, images, columns=options.columns, scale=options.scale)
    small = images.size * options.scale**2 <= PIECE
    return Answer(write() if small else await asyncio.to_thread(write), PNG, headers)


async def pixels(
    media_type: str, images: FloatArray, *, single: bool, headers: Mapping[str, str] | None = None
) -> Answer:
    """Images (N, C, H, W) in [0, 1] as JSON or npy; a `single` one is given without the N."""
    rows = images[0] if single else images
    return Answer(write_npy(rows), NPY, headers) if media_type == NPY else await json({"pixels": rows}, headers)


async def _json_value(value: Any) -> bytes:
    if not isinstance(value, np.ndarray) or value.size <= PIECE:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    rows = max(1, PIECE * len(value) // value.size)
    pieces = []
    for start in range(0, len(value), rows):
        pieces.append(orjson.dumps(value[start : start + rows], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        await asyncio.sleep(0)
    return b"[" + b",".join(pieces) + b"]"
