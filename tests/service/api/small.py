"""Small requests, as bytes that the fast path takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from service.inference.backend import Arrays
from service.inference.batching import MicroBatcher
from tests.service.http.wire import connect, receive_response, settle
from tests.service.pictures import picture
from tests.service.running import Running, wait_until

JSON, PNG, FOR_JSON = b"content-type: application/json", b"content-type: image/png", b"accept: application/json"
RIGHT, OTHER, WRONG = b"x-api-key: right", b"x-api-key: other", b"x-api-key: wrong"
Z, OTHER_Z, MARKED_Z = b"[1, 2, 3]", b"[3, 2, 1]", b"[9, 9, 9]"
RANDOM = np.random.default_rng(0)
NOISE = [Image.fromarray(RANDOM.integers(0, 256, (30, 40), np.uint8)) for _ in range(2)]
PNGS = [picture(image, compress_level=0) for image in NOISE]
"""Of the same length."""
PROBLEM = "application/problem+json"
OWN_ID = rb"\r\nx-request-id: [0-9a-f]{12}-[0-9a-f]+\r\n"
NUMBERS = itertools.count()


def head(target: bytes, *fields: bytes) -> bytes:
    """A head that the service does not know yet, without its Content-Length and its end."""
    lines = (b"%b HTTP/1.1" % target, b"host: x", b"user-agent: %05d" % next(NUMBERS), *fields)
    return b"".join(b"%b\r\n" % line for line in lines)


def decode(*fields: bytes) -> bytes:
    return head(b"POST /decode", JSON, *fields)


def whole(begun: bytes, body: bytes = Z) -> bytes:
    return begun + b"content-length: %d\r\n\r\n" % len(body) + body


def ask(service: Running, *requests: bytes) -> list[bytes]:
    """Send each request when the one before is answered."""
    received = []
    with connect(service.port) as connection:
        for request in requests:
            connection.sendall(request)
            received.append(receive_response(connection))
    return received


def settled(service: Running, *requests: bytes) -> list[bytes]:
    return [settle(response) for response in ask(service, *requests)]


def known(service: Running, begun: bytes, body: bytes = Z) -> bytes:
    """Send two requests with the head `begun`, so that later ones with a body as long as `body` take the fast path."""
    ask(service, *[whole(begun, body)] * 2)
    return begun


@contextmanager
def held(service: Running, count: int = 0) -> Iterator[MicroBatcher[Arrays, Arrays]]:
    """Let no image be drawn before the end of the block, when `count` of them wait."""
    batcher: MicroBatcher[Arrays, Arrays] = service.context.engine.scanline_decoder
    start = batcher._start_batch
    is_over = False

    def start_later() -> None:
        if is_over:
            start()
        else:
            batcher._loop.call_later(0.001, start_later)

    batcher._start_batch = start_later  # type: ignore[method-assign]
    try:
        yield batcher
        wait_until(lambda: batcher.waiting >= count)
    finally:
        is_over = True
        wait_until(lambda: not batcher._busy)
        batcher._start_batch = start  # type: ignore[method-assign]


def counts(service: Running, status: int, reason: str = "", media_type: str = PROBLEM) -> tuple[int, int]:
    """Requests to /decode with this status, and refusals."""
    every = service.app.state.access_control.counters.values()
    requests = sum(counters.requests["/decode", "POST", status, media_type] for counters in every)
    return requests, sum(counters.refusals[reason] for counters in every)
