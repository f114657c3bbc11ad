"""Which calls are retried, when, and for how long."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Timer
from typing import Literal

import httpx
import numpy as np
import pytest

from tests.client.clients import Async, Connect
from tests.client.fake_server import CLOSE, MODEL, Script, error_response, fake_server
from tests.service.running import Running
from vae_client import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    GatewayTimeoutError,
    ServiceUnavailableError,
)
from vae_client.deadline import Deadline


@pytest.mark.parametrize("status", [408, 429, 503])
def test_retry_after_is_honoured(connect: Connect, status: int) -> None:
    with fake_server((error_response(status, retry_after=1),), (MODEL,)) as server:
        assert connect(server.url).call("model").name == "fake"
    (delay,) = server.delays()
    assert 1 <= delay < 3


def test_retry_after_as_a_date(connect: Connect) -> None:
    when = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    with fake_server((error_response(503, retry_after=format_datetime(when, usegmt=True)),), (MODEL,)) as server:
        connect(server.url).call("model")
        assert datetime.now(UTC) >= when


def test_delays_grow(connect: Connect) -> None:
    with fake_server(*[(error_response(503),)] * 3, (MODEL,)) as server:
        connect(server.url).call("model")
    for delay, longest in zip(server.delays(), (0.1, 0.2, 0.4), strict=True):
        assert longest / 2 <= delay < longest + 0.5


def test_delays_differ() -> None:
    error = ServiceUnavailableError(httpx.Response(503, headers={"retry-after": "1"}))
    delays = {Deadline(10, 1).retry_delay(error) for _ in range(20)}
    assert len(delays) > 1
    assert all(1.05 <= delay <= 1.1 for delay in delays)


def test_the_number_of_retries_is_limited(connect: Connect) -> None:
    with fake_server((error_response(503),)) as server, pytest.raises(ServiceUnavailableError):
        connect(server.url, max_retries=2).call("model")
    assert len(server.requests) == 3


@pytest.mark.parametrize("last", [(MODEL,), (0.3, MODEL)])
def test_a_connection_closed_before_the_response(connect: Connect, last: Script) -> None:
    with fake_server((CLOSE,), (CLOSE,), last) as server:
        assert connect(server.url).call("model").name == "fake"
    assert len(server.requests) == 3


def test_connections_that_are_always_closed(connect: Connect) -> None:
    with fake_server((CLOSE,)) as server, pytest.raises(APIConnectionError):
        connect(server.url, max_retries=2).call("model")
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 502, 504])
def test_other_statuses_are_not_retried(connect: Connect, status: int) -> None:
    with fake_server((error_response(status, retry_after=0),), (MODEL,)) as server, pytest.raises(APIStatusError):
        connect(server.url).call("model")
    assert len(server.requests) == 1


def test_the_body_is_sent_again(connect: Connect, url: str) -> None:
    with fake_server((error_response(503),), (error_response(504),)) as server, pytest.raises(GatewayTimeoutError):
        connect(server.url).call("encode", np.zeros((28, 28), np.uint8))
    first, second = (request.head for request in server.requests)
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
    ids=["no response", "incomplete head", "incomplete body", "slow body"],
)
def test_a_call_ends_within_its_timeout(connect: Connect, steps: Script) -> None:
    with fake_server(steps) as server:
        client = connect(server.url, timeout=1)
        start = time.monotonic()
        with pytest.raises(APITimeoutError, match=r"within 1 s"):
            client.call("model")
        assert 0.9 < time.monotonic() - start < 2.6
    assert len(server.requests) == 1


def test_a_slow_response_head(connect: Connect) -> None:
    """AsyncClient ends in time; Client when the head is complete, without returning the late response."""
    steps = [step for byte in MODEL[:40] for step in (0.08, bytes([byte]))]
    with fake_server((*steps, MODEL[40:])) as server:
        client = connect(server.url, timeout=1)
        start = time.monotonic()
        with pytest.raises(APITimeoutError, match=r"within 1 s"):
            client.call("model")
        assert 0.9 < time.monotonic() - start < (2.6 if isinstance(client, Async) else 6)


def test_the_timeout_includes_all_attempts(connect: Connect) -> None:
    with fake_server((0.2, error_response(503))) as server:
        client = connect(server.url, timeout=1, max_retries=100)
        start = time.monotonic()
        with pytest.raises((APITimeoutError, ServiceUnavailableError)):
            client.call("model")
        assert time.monotonic() - start < 2
    assert 2 <= len(server.requests) <= 5


def test_the_timeouts_of_httpx_limit_each_phase(connect: Connect) -> None:
    slow = (*(step for byte in MODEL[:4] for step in (0.4, bytes([byte]))), MODEL[4:])
    with fake_server((error_response(503),), slow, (3.0, MODEL)) as server:
        client = connect(server.url, timeout=httpx.Timeout(1))
        assert client.call("model").name == "fake"
        start = time.monotonic()
        with pytest.raises(APITimeoutError, match=r"exceeded its limit in Timeout\(timeout=1\)"):
            client.call("model")
        assert 0.9 < time.monotonic() - start < 2.9
    assert len(server.requests) == 3


@pytest.mark.parametrize("timeout", [None, httpx.Timeout(None)])
def test_no_limit(connect: Connect, timeout: httpx.Timeout | None) -> None:
    with fake_server((CLOSE,), (0.3, MODEL)) as server:
        assert connect(server.url, timeout=timeout).call("model").name == "fake"


def test_without_a_limit_no_delay_is_longer_than_a_minute() -> None:
    for seconds, retried in (("50", True), ("61", False)):
        error = ServiceUnavailableError(httpx.Response(503, headers={"retry-after": seconds}))
        for timeout in (None, httpx.Timeout(5)):
            try:
                assert 50 < Deadline(timeout, 1).retry_delay(error) < 51
            except ServiceUnavailableError:
                assert not retried
            else:
                assert retried


def test_no_delay_beyond_the_timeout(connect: Connect) -> None:
    with fake_server((error_response(503, retry_after=30),)) as server:
        client = connect(server.url, timeout=5)
        start = time.monotonic()
        with pytest.raises(ServiceUnavailableError) as caught:
            client.call("model")
        assert time.monotonic() - start < 4
        assert caught.value.retry_after == 30


@pytest.mark.parametrize("status", ["starting", "draining"])
def test_a_service_that_is_not_ready(
    connect: Connect, served: Running, url: str, status: Literal["starting", "draining"]
) -> None:
    """The real service sends 503 with Retry-After; the retry succeeds once it is ready."""
    served.admission.status = status
    ready = Timer(0.5, lambda: setattr(served.admission, "status", "ok"))
    try:
        with pytest.raises(ServiceUnavailableError, match=status) as caught:
            connect(url, max_retries=0).call("model")
        assert caught.value.retry_after == 1
        ready.start()
        start = time.monotonic()
        assert connect(url, max_retries=1).call("model").latent_dim == 3
        assert time.monotonic() - start >= 1
    finally:
        ready.cancel()
        served.admission.status = "ok"


def test_connections_are_reused(connect: Connect) -> None:
    with fake_server((MODEL,)) as server:
        client = connect(server.url)
        for _ in range(5):
            client.call("model")
    assert [request.connection for request in server.requests] == [0] * 5


def test_an_error_keeps_the_connection(connect: Connect) -> None:
    with fake_server((error_response(422),), (MODEL,)) as server:
        client = connect(server.url)
        with pytest.raises(APIStatusError):
            client.call("model")
        client.call("model")
    assert [request.connection for request in server.requests] == [0, 0]
