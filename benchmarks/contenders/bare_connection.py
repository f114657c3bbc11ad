"""The bare ASGI function on vae-serve's own connections in place of uvicorn's.

python -m benchmarks.contenders.bare_connection PORT
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

from benchmarks.contenders.bare import app
from service.http.connection import Connection
from service.http.timeouts import Timeouts
from service.settings import read_settings


async def bare(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """As the bare function; at its start it says how patient the connections are."""
    if scope["type"] == "http":
        await app(scope, receive, send)
        return
    settings = read_settings([])
    await receive()
    scope["state"]["timeouts"] = Timeouts(settings.client_timeout, settings.keep_alive)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


if __name__ == "__main__":
    uvicorn.run(bare, port=int(sys.argv[1]), http=Connection, lifespan="on", access_log=False)
