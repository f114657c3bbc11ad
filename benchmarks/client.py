"""One request at a time, for what is no matter of load."""

from __future__ import annotations

import socket
import time
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple

from benchmarks.calls import Call
from benchmarks.pinned import Pinned

START_LIMIT_S = 180
TIMEOUT_S = 60


class Answer(NamedTuple):
    """What came back."""

    status: int
    media_type: str
    body: bytes


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def send(port: int, call: Call, accept: str = "*/*") -> Answer:
    """One request on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    headers = {"Accept": accept, **({"Content-Type": call.content_type} if call.content_type else {})}
    try:
        connection.request(call.method, call.path, call.body or None, headers)
        response = connection.getresponse()
        return Answer(response.status, response.getheader("content-type", ""), response.read())
    finally:
        connection.close()


def wait_until_answered(process: Pinned, port: int, call: Call, interval: float = 0.1) -> Answer:
    """The first answer of status 200, asked for every `interval` seconds."""
    last = "nothing"
    give_up = time.monotonic() + START_LIMIT_S
    while time.monotonic() < give_up:
        process.check()
        try:
            answer = send(port, call)
            if answer.status == 200:
                return answer
            last = f"status {answer.status}"
        except (OSError, HTTPException):
            pass  # it does not listen yet
        time.sleep(interval)
    raise RuntimeError(f"{process.main.args!r} answered {call.path} with {last} for {START_LIMIT_S} s.")
