"""Arrays → answers: PNG, JSON, or a format of arrays, as the caller's Accept header asks."""

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
from service.bodies import JSON, NDJSON
from service.errors import ServiceError, problem_document
from service.formats import ARRAY_FORMATS
from service.images import write_png
from service.schemas import PngOptions

PNG = "image/png"
ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
OFFERS = (JSON, *ARRAY_FORMATS, NDJSON)
"""What `arrays` gives."""

PIECE = 100_000
"""Values that are written in one go; for more the event loop is let breathe, or a thread does it."""


class Answer(Response):
    """An answer whose header fields are written once, as bytes."""

    def __init__(
        self,
        body: bytes | memoryview,
        media_type: str,
        headers: Mapping[str, str] | None = None,
        status: int = 200,
    ) -> None:
        self.body = body
        self.media_type = media_type
        self.status_code = status
        self.background = None
        self.raw_headers = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % len(body))]
        if headers:
            self.raw_headers += [(name.lower().encode(), value.encode()) for name, value in headers.items()]

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


async def png(
    scanlines: ByteArray, channels: int, options: PngOptions, headers: Mapping[str, str] | None = None
) -> Answer:
    """Images on one sheet, as `write_png` takes them."""
    if scanlines.size * options.scale**2 <= PIECE:
        return Answer(write_png(scanlines, channels, options.columns, options.scale), PNG, headers)
    return Answer(await asyncio.to_thread(write_png, scanlines, channels, options.columns, options.scale), PNG, headers)


async def arrays(
    media_type: str,
    rows: Mapping[str, FloatArray],
    *,
    single: bool,
    headers: Mapping[str, str] | None = None,
    **told: int,
) -> Answer:
    """Named arrays (N, …) as one of OFFERS; a `single` item is given without the N. JSON tells `told` before them."""
    if media_type == JSON:
        return await json({**told, **{name: array[0] if single else array for name, array in rows.items()}}, headers)
    if media_type == NDJSON:
        return Answer(await _lines(rows), NDJSON, headers)
    write = partial(ARRAY_FORMATS[media_type].write, rows, single)
    small = sum(array.size for array in rows.values()) <= PIECE
    return Answer(write() if small else await asyncio.to_thread(write), media_type, headers)


async def _lines(rows: Mapping[str, FloatArray]) -> bytes:
    """A JSON object a row."""
    lines = []
    written = 0
    for values in zip(*rows.values(), strict=True):
        fields = dict(zip(rows, values, strict=True))
        lines.append(orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
        written += sum(value.size for value in values)
        if written > PIECE:
            await asyncio.sleep(0)
            written = 0
    return b"".join(lines)


async def _json_value(value: Any) -> bytes:
    if not isinstance(value, np.ndarray) or value.size <= PIECE:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    rows = max(1, PIECE * len(value) // value.size)
    pieces = []
    for start in range(0, len(value), rows):
        pieces.append(orjson.dumps(value[start : start + rows], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        await asyncio.sleep(0)
    return b"[" + b",".join(pieces) + b"]"
