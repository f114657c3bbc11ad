"""Responses: arrays as PNG, JSON, NDJSON or a format of arrays, and errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import errors
from service.api.bodies import JSON, NDJSON
from service.api.offloading import INLINE_S, JSON_VALUE_S, PIXEL_S, VALUE_S
from service.api.request import Request
from service.api.schemas import PngOptions
from service.errors import ServiceError, problem_document
from service.formats.arrays import Array
from service.formats.png import write_png
from service.formats.registry import ARRAY_FORMATS

PNG = "image/png"
ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
OFFERS = (JSON, *ARRAY_FORMATS, NDJSON)
"""Media types that `array_response` can give."""
IMAGE_OFFERS = (PNG, *OFFERS)

PIECE = 25_000
"""Numbers that are written as JSON at once, in a millisecond or two."""
JSON_NUMBER_BYTES = 13
"""Bytes of a float32 in JSON, on average, with its comma; they are held twice for a moment: in pieces, and joined."""
LINE_S = 5e-6
"""Seconds to write a line of NDJSON, in addition to its numbers."""
PNG_COPIES = 5
"""Copies of a grid's pixels: images, grid, enlarged, scanlines, filtered; compressed they are few bytes."""


class BytesResponse(Response):
    """A response that encodes its header fields once; Starlette's goes through them several times."""

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
        """Send the response."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})


def error_response(error: ServiceError) -> BytesResponse:
    """Return the response to an error (RFC 9457)."""
    return BytesResponse(problem_document(error), errors.MEDIA_TYPE, error.headers, error.status)


def reserve_response(request: Request, media_type: str, count: int) -> None:
    """Charge a response of `count` numbers, and the arrays that it is written from; raises TooLarge or Unavailable."""
    request.reserve(response_memory(media_type, count))


def response_memory(media_type: str, count: int) -> int:
    """Return the bytes that a response of `count` numbers takes, with the arrays that it is written from."""
    return count * (4 + (2 * JSON_NUMBER_BYTES if media_type in (JSON, NDJSON) else 12))


async def png_response(
    request: Request, scanlines: ByteArray, channels: int, options: PngOptions, headers: Mapping[str, str] | None = None
) -> BytesResponse:
    """Return a PNG of a grid of images, from scanlines as `write_png` takes them.

    Those of videos, (N, T, H, 1 + W·C), become a grid of frames.
    """
    scanlines = scanlines.reshape(-1, *scanlines.shape[-2:])
    seconds = scanlines.size * options.scale**2 * PIXEL_S
    if seconds <= INLINE_S:  # saves a coroutine
        return BytesResponse(write_png(scanlines, channels, options.columns, options.scale), PNG, headers)
    return BytesResponse(
        await request.run(seconds, write_png, scanlines, channels, options.columns, options.scale), PNG, headers
    )


async def array_response(
    request: Request,
    media_type: str,
    rows: Mapping[str, Array],
    *,
    single: bool,
    headers: Mapping[str, str] | None = None,
    **extra: int,
) -> BytesResponse:
    """Return named arrays (N, …) as one of OFFERS; a `single` item has no N. JSON begins with the fields `extra`."""
    count = sum(array.size for array in rows.values())
    if media_type == JSON:
        fields = {**extra, **{name: array[0] if single else array for name, array in rows.items()}}
        seconds = count * JSON_VALUE_S
        if seconds <= INLINE_S:  # saves a coroutine
            return BytesResponse(orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY), JSON, headers)
        return BytesResponse(await request.run(seconds, _write_json, fields), JSON, headers)
    if media_type == NDJSON:
        seconds = count * JSON_VALUE_S + len(next(iter(rows.values()))) * LINE_S
        return BytesResponse(await request.run(seconds, _write_lines, rows), NDJSON, headers)
    write = ARRAY_FORMATS[media_type].write
    return BytesResponse(await request.run(count * VALUE_S, write, rows, single), media_type, headers)


def _write_json(fields: Mapping[str, Any]) -> bytes:
    """Write a JSON object whose values may be arrays; a float32 has the fewest digits that identify it."""
    if sum(np.size(value) for value in fields.values()) <= PIECE:
        return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
    pieces: list[bytes] = []
    for name, value in fields.items():
        pieces += b"," if pieces else b"{", orjson.dumps(name), b":", *write_values(value)
    return b"".join((*pieces, b"}"))


def write_values(value: Any) -> Iterator[bytes]:
    """Write JSON in pieces, between which other threads can run: orjson holds the GIL."""
    if not isinstance(value, np.ndarray) or value.size <= PIECE:
        yield orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
        return
    rows = max(1, PIECE * len(value) // value.size)
    for start in range(0, len(value), rows):
        yield b"," if start else b"["
        yield orjson.dumps(value[start : start + rows], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]"


def _write_lines(rows: Mapping[str, Array]) -> bytes:
    """Write a JSON object per row, one per line."""
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    return b"".join(
        orjson.dumps(dict(zip(rows, values, strict=True)), option=option) for values in zip(*rows.values(), strict=True)
    )
