"""A server that answers as it is told, badly if need be, and remembers who asked when."""

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

HANG_UP = None
Answer = tuple[bytes | float | None, ...]
"""Bytes are sent, numbers are seconds to wait, HANG_UP, as the last, ends the connection."""


class Seen(NamedTuple):
    """A request: when it was whole, the number of its connection, its head."""

    at: float
    connection: int
    head: str


class Fake:
    """Gives its answers in turn, the last one for ever."""

    def __init__(self, listener: socket.socket, answers: tuple[Answer, ...]) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = Lock()
        self._listener = listener
        self._answers = answers
        Thread(target=self._listen, daemon=True).start()

    def pauses(self) -> list[float]:
        """Seconds between requests."""
        return [after.at - before.at for before, after in zip(self.seen, self.seen[1:], strict=False)]

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
                        self.seen.append(Seen(time.monotonic(), number, head))
                        steps = self._answers[min(len(self.seen), len(self._answers)) - 1]
                        self._at_once += 1
                        self.most_at_once = max(self.most_at_once, self._at_once)
                    for step in steps[:-1]:
                        _take(step, connection)
                    with self._lock:
                        self._at_once -= 1
                    if not _take(steps[-1], connection):
                        return
                except OSError:  # the caller went away
                    return


def _take(step: bytes | float | None, connection: socket.socket) -> bool:
    """Whether the connection goes on."""
    if isinstance(step, bytes):
        connection.sendall(step)
    elif step is not None:
        time.sleep(step)
    return step is not None


@contextmanager
def fake(*answers: Answer) -> Iterator[Fake]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Fake(listener, answers)
        listener.shutdown(socket.SHUT_RDWR)


def answer(body: bytes, status: int = 200, media_type: str = "application/json", **headers: object) -> bytes:
    fields = {"content-type": media_type, "content-length": len(body), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode() + body


def refused(status: int, **headers: object) -> bytes:
    title = HTTPStatus(status).phrase
    document = {"type": "about:blank", "title": title, "status": status, "detail": "Not now."}
    return answer(json.dumps(document).encode(), status, "application/problem+json", **headers)


MODEL = answer(
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
            "of_tomorrow": True,
        }
    ).encode()
)
