"""Sockets and servers for the tests of connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.connection import Connection
from service.http.timeouts import Timeouts
from service.memory_budget import MemoryBudget
from tests.service.running import wait_until

PROBE = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
LAST_PROBE = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
DECODE = b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
PATIENCE_S = 0.3
TICK_S = 0.001
"""uvloop's clock counts whole milliseconds: a wait ends up to one early."""


@contextmanager
def serving(app: ASGIApp) -> Iterator[int]:
    """Any ASGI application on this service's connections; gives the port."""

    async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"] |= {"timeouts": Timeouts(10, 10), "memory": MemoryBudget(2**30)}
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(with_lifespan, http=Connection, lifespan="on", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield port
        finally:
            server.should_exit = True
            thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the service hangs up."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def taken_in_the_end(connection: socket.socket) -> int:
    """Bytes that come until the service hangs up, one way or the other."""
    came = 0
    with suppress(ConnectionResetError):
        while piece := connection.recv(2**16):
            came += len(piece)
    return came


def ask(port: int, request: bytes) -> bytes:
    with connect(port) as connection:
        connection.sendall(request)
        return rest(connection)


def until(connection: socket.socket, end: bytes) -> bytes:
    """What comes up to `end`."""
    came = b""
    while not came.endswith(end):
        piece = connection.recv(1)
        assert piece, came
        came += piece
    return came


# What HTTP allows.
