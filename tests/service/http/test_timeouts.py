"""Timeouts of connections, on a real socket."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest

from tests.service.http.wire import (
    DECODE,
    PROBE,
    TICK_S,
    TIMEOUT_S,
    connect,
    count_received,
    exchange,
    receive_all,
)
from tests.service.running import Running, Stalled, running, wait_until


@pytest.mark.parametrize(("request_bytes", "part"), [(b"GET /livez HTT", b"head"), (DECODE + b"x: y\r\n", b"head")])
def test_a_slow_head(impatient: Running, request_bytes: bytes, part: bytes) -> None:
    begun = time.monotonic()
    response = exchange(impatient.port, request_bytes)
    assert response.startswith(b"HTTP/1.1 408")
    assert b"The client sent nothing more of the request's %b within 0.3 s" % part in response
    assert TIMEOUT_S - TICK_S <= time.monotonic() - begun < 5


def test_a_head_that_arrives_byte_by_byte_times_out(impatient: Running) -> None:
    """Receiving more of the head does not extend its time."""
    with connect(impatient.port) as connection:
        connection.settimeout(0.05)
        begun, response = time.monotonic(), b""
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        while not response and time.monotonic() - begun < 5:
            connection.sendall(b"x: y\r\n")
            try:
                response = connection.recv(65536)
            except TimeoutError:
                continue
    assert response.startswith(b"HTTP/1.1 408")


def test_a_slow_body(impatient: Running) -> None:
    response = exchange(impatient.port, DECODE + b"content-length: 9\r\n\r\n[1, 2")
    assert response.startswith(b"HTTP/1.1 408")
    assert b"request's body" in response
    impatient.wait_for(in_flight=0)


@pytest.mark.parametrize("before", [b"", PROBE])
def test_an_idle_connection_is_closed(impatient: Running, before: bytes) -> None:
    begun = time.monotonic()
    assert exchange(impatient.port, before).count(b"HTTP/1.1") == (1 if before else 0)
    assert TIMEOUT_S - TICK_S <= time.monotonic() - begun < 5


def test_a_client_that_does_not_read_is_disconnected(impatient: Running) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", impatient.port))
        connection.sendall(b"GET /sample?n=4000 HTTP/1.1\r\nhost: x\r\naccept: application/x-npy\r\n\r\n")
        impatient.wait_for(in_flight=0)
        time.sleep(6 * TIMEOUT_S)
        assert count_received(connection) < 4000 * 28 * 28 * 4


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone cuts off what the system has taken in")
def test_a_client_that_does_not_read_the_kernels_buffer_is_disconnected(impatient: Running) -> None:
    """The service regards a response that fits into the kernel's buffers as sent."""
    whole = len(impatient.client.get("/latents").content)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", impatient.port))
        connection.sendall(b"GET /latents HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(6 * TIMEOUT_S)
        assert count_received(connection) < whole


def test_a_steady_reader_may_take_longer_than_the_timeout(impatient: Running) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", impatient.port))
        connection.sendall(b"GET /sample?n=9000 HTTP/1.1\r\nhost: x\r\naccept: application/x-npy\r\n\r\n")
        begun, received = time.monotonic(), 0
        while received < 9000 * 28 * 28 * 4:
            piece = connection.recv(2**18)
            assert piece, f"cut off after {received} bytes"
            received += len(piece)
            time.sleep(0.005)
    assert time.monotonic() - begun > 2 * TIMEOUT_S


def test_slow_bodies_do_not_take_the_place_of_other_requests() -> None:
    """Even when most of their bytes were received."""
    with running(queue_limit=2) as service, ExitStack() as stack:
        for _ in range(3):
            slow = stack.enter_context(connect(service.port))
            slow.sendall(DECODE + b"content-length: 400000\r\n\r\n" + b" " * 390_000)
        service.wait_for(in_flight=3)
        wait_until(lambda: service.app.state.memory.used >= 3 * 390_000)
        assert service.client.post("/decode", json=[0, 0, 0]).status_code == 200


def test_computing_does_not_count_towards_timeouts(impatient: Running) -> None:
    stalled: list[Stalled] = []

    def make(engine: object) -> Stalled:
        stalled.append(Stalled(engine))  # type: ignore[arg-type]
        return stalled[0]

    loaded = impatient.context
    impatient.swap_engine(make)
    try:
        with connect(impatient.port) as connection:
            connection.sendall(DECODE + b"content-length: 9\r\nconnection: close\r\n\r\n[1, 2, 3]")
            impatient.wait_for(in_flight=1)
            time.sleep(5 * TIMEOUT_S)
            stalled[0].released.set()
            assert b"\x89PNG" in receive_all(connection)
    finally:
        impatient.swap_context(loaded)


# Who is gone.
