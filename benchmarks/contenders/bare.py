"""The limit: a bare ASGI function on uvicorn, whose answer is a constant picture of the size of the service's.

    python -m benchmarks.contenders.bare PORT

runs it on vae-serve's connections in place of uvicorn's.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import uvicorn
from PIL import Image


def _stored_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


BODY = _stored_png()
HEADERS = [(b"content-type", b"image/png"), (b"content-length", str(len(BODY)).encode())]


async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Answer without reading the request."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def main(port: int) -> None:
    """Serve `app` on the service's connections, which get their state from the service's own lifespan."""
    from service.app import create_app  # noqa: PLC0415 - `app` does without the service
    from service.http.connection import Connection  # noqa: PLC0415 - as above
    from service.settings import read_settings  # noqa: PLC0415 - as above

    service = create_app(read_settings([]))

    async def with_lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await (app if scope["type"] == "http" else service)(scope, receive, send)

    uvicorn.run(with_lifespan, port=port, http=Connection, lifespan="on", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
