"""A server that sends prepared responses, also invalid ones, and records the requests."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from itertools import takewhile
from threading import Lock, Thread
from typing import NamedTuple

CLOSE = None
Script = tuple[bytes | float | None, ...]
"""What to do for one request: send bytes, wait so many seconds, or, as the last step, CLOSE the connection."""


class ReceivedRequest(NamedTuple):
    """When a request was complete, the number of its connection, and its head."""

    at: float
    connection: int
    head: str


class FakeServer:
    """Follows one script per request, and the last one for all further requests."""

    def __init__(self, listener: socket.socket, scripts: tuple[Script, ...]) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.requests: list[ReceivedRequest] = []
        self.max_in_flight = 0
        self._in_flight = 0
        self._lock = Lock()
        self._listener = listener
        self._scripts = scripts
        Thread(target=self._listen, daemon=True).start()

    def delays(self) -> list[float]:
        """Seconds between requests."""
        return [after.at - before.at for before, after in zip(self.requests, self.requests[1:], strict=False)]

    def _listen(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            Thread(target=self._serve, args=(connection, number), daemon=True).start()
            number += 1

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as stream:
            while True:
                try:
                    head = "".join(line.decode() for line in takewhile(lambda line: line != b"\r\n", stream))
                    if not head:
                        return
                    length = [line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-l")]
                    stream.read(int(length[0]) if length else 0)
                    with self._lock:
                        self.requests.append(ReceivedRequest(time.monotonic(), number, head))
                        script = self._scripts[min(len(self.requests), len(self._scripts)) - 1]
                        self._in_flight += 1
                        self.max_in_flight = max(self.max_in_flight, self._in_flight)
                    for step in script[:-1]:
                        _run(step, connection)
                    with self._lock:
                        self._in_flight -= 1
                    if not _run(script[-1], connection):
                        return
                except OSError:  # the client has closed the connection
                    return


def _run(step: bytes | float | None, connection: socket.socket) -> bool:
    """Run one step; returns whether the connection stays open."""
    if isinstance(step, bytes):
        connection.sendall(step)
    elif step is not None:
        time.sleep(step)
    return step is not None


@contextmanager
def fake_server(*scripts: Script) -> Iterator[FakeServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield FakeServer(listener, scripts)
        listener.shutdown(socket.SHUT_RDWR)


def response(body: bytes, status: int = 200, media_type: str = "application/json", **headers: object) -> bytes:
    fields = {"content-type": media_type, "content-length": len(body), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode() + body


def error_response(status: int, **headers: object) -> bytes:
    title = HTTPStatus(status).phrase
    document = {"type": "about:blank", "title": title, "status": status, "detail": "Not now."}
    return response(json.dumps(document).encode(), status, "application/problem+json", **headers)


MODEL = response(
    json.dumps(
        {
            "name": "fake",
            "architecture": "mlp",
            "image_shape": [1, 28, 28],
            "latent_shape": [3],
            "latent_dim": 3,
            "parameters": 1,
            "sha256": "0",
            "format_version": 1,
            "training": {},
            "figures": {},
            "of_a_newer_service": True,
        }
    ).encode()
)
