"""Sockets and servers for the tests of connections."""

from __future__ import annotations

import re
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
TIMEOUT_S = 0.3
TICK_S = 0.001
"""uvloop's clock counts whole milliseconds: a wait can end one early."""


@contextmanager
def serving(app: ASGIApp) -> Iterator[int]:
    """Serve an ASGI application on this service's connections; yields the port."""

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


def receive_all(connection: socket.socket) -> bytes:
    """Receive until the service closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def count_received(connection: socket.socket) -> int:
    """Count the bytes received until the service closes or resets the connection."""
    received = 0
    with suppress(ConnectionResetError):
        while piece := connection.recv(2**16):
            received += len(piece)
    return received


def exchange(port: int, request: bytes) -> bytes:
    with connect(port) as connection:
        connection.sendall(request)
        return receive_all(connection)


def receive_until(connection: socket.socket, end: bytes) -> bytes:
    """Receive up to `end`."""
    received = b""
    while not received.endswith(end):
        piece = connection.recv(1)
        assert piece, received
        received += piece
    return received


def receive_response(connection: socket.socket) -> bytes:
    """Receive one response that tells its length."""
    response = receive_until(connection, b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)\r\n", response)
    assert length, response
    left = int(length[1])
    while left:
        piece = connection.recv(left)
        assert piece, response
        response += piece
        left -= len(piece)
    return response


def settle(response: bytes) -> bytes:
    """Remove the values that differ between two responses to the same request."""
    head, end, body = response.partition(b"\r\n\r\n")
    return re.sub(rb"\r\n(date|server-timing|x-request-id): [^\r]+", rb"\r\n\1", head) + end + body
