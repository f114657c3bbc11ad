"""The limit: a bare ASGI function on uvicorn, whose answer is a constant picture of the size of ours."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from PIL import Image


def _stored_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


BODY = _stored_png()
HEADERS = [(b"content-type", b"image/png"), (b"content-length", str(len(BODY)).encode())]


async def app(
    _scope: Mapping[str, Any], _receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answer without a look at what came."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
