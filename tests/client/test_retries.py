"""What is tried again, when, and how long at most."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Timer
from typing import Literal

import numpy as np
import pytest

from tests.client.callers import Awaited, Connect
from tests.client.fake import HANG_UP, MODEL, Answer, fake, refused
from tests.service.running import Running
from vae_client import ConnectionFailed, DeadlineExceeded, Problem, Refused, TimedOut, Unavailable
from vae_client.course import Course


@pytest.mark.parametrize("status", [408, 429, 503])
def test_retry_after_is_honoured(connect: Connect, status: int) -> None:
    with fake((refused(status, retry_after=1),), (MODEL,)) as server:
        assert connect(server.url).ask("model").name == "fake"
    (pause,) = server.pauses()
    assert 1 <= pause < 3


def test_retry_after_as_a_date(connect: Connect) -> None:
    when = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    with fake((refused(503, retry_after=format_datetime(when, usegmt=True)),), (MODEL,)) as server:
        connect(server.url).ask("model")
        assert datetime.now(UTC) >= when


def test_pauses_grow(connect: Connect) -> None:
    with fake(*[(refused(503),)] * 3, (MODEL,)) as server:
        connect(server.url).ask("model")
    for pause, longest in zip(server.pauses(), (0.1, 0.2, 0.4), strict=True):
        assert longest / 2 <= pause < longest + 0.5


def test_pauses_differ() -> None:
    error = Unavailable(Problem("about:blank", "Service Unavailable", 503, "Not now."), retry_after=1)
    pauses = {Course(10, 1).pause_after(error) for _ in range(20)}
    assert len(pauses) > 1
    assert all(1.05 <= pause <= 1.1 for pause in pauses)


def test_they_are_bounded(connect: Connect) -> None:
    with fake((refused(503),)) as server, pytest.raises(Unavailable):
        connect(server.url, retries=2).ask("model")
    assert len(server.seen) == 3


@pytest.mark.parametrize("last", [(MODEL,), (0.3, MODEL)])
def test_a_connection_that_ends_before_an_answer(connect: Connect, last: Answer) -> None:
    with fake((HANG_UP,), (HANG_UP,), last) as server:
        assert connect(server.url).ask("model").name == "fake"
    assert len(server.seen) == 3


def test_a_connection_that_ends_for_ever(connect: Connect) -> None:
    with fake((HANG_UP,)) as server, pytest.raises(ConnectionFailed):
        connect(server.url, retries=2).ask("model")
    assert len(server.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 502, 504])
def test_what_is_not_tried_again(connect: Connect, status: int) -> None:
    with fake((refused(status, retry_after=0),), (MODEL,)) as server, pytest.raises(Refused):
        connect(server.url).ask("model")
    assert len(server.seen) == 1


def test_a_body_is_sent_whole_again(connect: Connect, url: str) -> None:
    with fake((refused(503),), (refused(504),)) as server, pytest.raises(DeadlineExceeded):
        connect(server.url).ask("encode", np.zeros((28, 28), np.uint8))
    first, second = (request.head for request in server.seen)
    assert first == second
    assert "content-length: 912" in first.lower()


@pytest.mark.parametrize(
    "steps",
    [
        (30.0,),
        (MODEL[:20], 30.0),
        (0.8, MODEL[:-1], 30.0),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", *(byte for _ in range(100) for byte in (0.1, b"x"))),
    ],
    ids=["no answer", "half a head", "half a body", "a body in drops"],
)
def test_a_call_ends_in_its_time(connect: Connect, steps: Answer) -> None:
    with fake(steps) as server:
        caller = connect(server.url, timeout=1)
        start = time.monotonic()
        with pytest.raises(TimedOut, match=r"within 1 s"):
            caller.ask("model")
        assert 0.9 < time.monotonic() - start < 2.6
    assert len(server.seen) == 1


def test_a_head_in_drops(connect: Connect) -> None:
    """AsyncClient leaves in time; Client when the drops end, and takes no answer that is late."""
    drops = [drop for byte in MODEL[:40] for drop in (0.08, bytes([byte]))]
    with fake((*drops, MODEL[40:])) as server:
        caller = connect(server.url, timeout=1)
        start = time.monotonic()
        with pytest.raises(TimedOut, match=r"within 1 s"):
            caller.ask("model")
        assert 0.9 < time.monotonic() - start < (2.6 if isinstance(caller, Awaited) else 6)


def test_the_time_is_of_all_attempts(connect: Connect) -> None:
    with fake((0.2, refused(503))) as server:
        caller = connect(server.url, timeout=1, retries=100)
        start = time.monotonic()
        with pytest.raises((TimedOut, Unavailable)):
            caller.ask("model")
        assert time.monotonic() - start < 2
    assert 2 <= len(server.seen) <= 5


def test_a_pause_beyond_the_time_is_not_begun(connect: Connect) -> None:
    with fake((refused(503, retry_after=30),)) as server:
        caller = connect(server.url, timeout=5)
        start = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            caller.ask("model")
        assert time.monotonic() - start < 4
        assert caught.value.retry_after == 30


@pytest.mark.parametrize("status", ["starting", "draining"])
def test_a_service_that_is_not_ready(
    connect: Connect, served: Running, url: str, status: Literal["starting", "draining"]
) -> None:
    """The real one: it sends 503 with Retry-After; the client comes again, and is answered once it is ready."""
    served.admission.status = status
    ready = Timer(0.5, lambda: setattr(served.admission, "status", "ok"))
    try:
        with pytest.raises(Unavailable, match=status) as caught:
            connect(url, retries=0).ask("model")
        assert caught.value.retry_after == 1
        ready.start()
        start = time.monotonic()
        assert connect(url, retries=1).ask("model").latent_dim == 3
        assert time.monotonic() - start >= 1
    finally:
        ready.cancel()
        served.admission.status = "ok"


def test_connections_are_used_again(connect: Connect) -> None:
    with fake((MODEL,)) as server:
        caller = connect(server.url)
        for _ in range(5):
            caller.ask("model")
    assert [request.connection for request in server.seen] == [0] * 5


def test_an_error_leaves_the_connection(connect: Connect) -> None:
    with fake((refused(422),), (MODEL,)) as server:
        caller = connect(server.url)
        with pytest.raises(Refused):
            caller.ask("model")
        caller.ask("model")
    assert [request.connection for request in server.seen] == [0, 0]
