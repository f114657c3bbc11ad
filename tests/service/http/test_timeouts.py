"""Timeouts of connections, on a real socket."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest

from tests.service.http.wire import (
    DECODE,
    PATIENCE_S,
    PROBE,
    TICK_S,
    ask,
    connect,
    rest,
    taken_in_the_end,
)
from tests.service.running import Running, Stalled, running, wait_until


@pytest.mark.parametrize(("request_bytes", "part"), [(b"GET /livez HTT", b"head"), (DECODE + b"x: y\r\n", b"head")])
def test_a_slow_head(hasty: Running, request_bytes: bytes, part: bytes) -> None:
    begun = time.monotonic()
    answer = ask(hasty.port, request_bytes)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"The client sent nothing more of the request's %b within 0.3 s" % part in answer
    assert PATIENCE_S - TICK_S <= time.monotonic() - begun < 5


def test_a_head_that_drips(hasty: Running) -> None:
    """More of it gives no more time."""
    with connect(hasty.port) as connection:
        connection.settimeout(0.05)
        begun, answer = time.monotonic(), b""
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        while not answer and time.monotonic() - begun < 5:
            connection.sendall(b"x: y\r\n")
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_slow_body(hasty: Running) -> None:
    answer = ask(hasty.port, DECODE + b"content-length: 9\r\n\r\n[1, 2")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request's body" in answer
    hasty.wait_for(in_flight=0)


@pytest.mark.parametrize("before", [b"", PROBE])
def test_an_idle_connection_is_closed(hasty: Running, before: bytes) -> None:
    begun = time.monotonic()
    assert ask(hasty.port, before).count(b"HTTP/1.1") == (1 if before else 0)
    assert PATIENCE_S - TICK_S <= time.monotonic() - begun < 5


def test_who_does_not_take_the_answer_is_cut_off(hasty: Running) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", hasty.port))
        connection.sendall(b"GET /sample?n=4000 HTTP/1.1\r\nhost: x\r\naccept: application/x-npy\r\n\r\n")
        hasty.wait_for(in_flight=0)
        time.sleep(6 * PATIENCE_S)
        assert taken_in_the_end(connection) < 4000 * 28 * 28 * 4


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone cuts off what the system has taken in")
def test_who_does_not_take_what_the_system_has_taken_in_is_cut_off(hasty: Running) -> None:
    """An answer that fits into its buffers is, for the service, sent."""
    whole = len(hasty.client.get("/latents").content)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", hasty.port))
        connection.sendall(b"GET /latents HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(6 * PATIENCE_S)
        assert taken_in_the_end(connection) < whole


def test_a_steady_reader_may_take_longer_than_the_callers_time(hasty: Running) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", hasty.port))
        connection.sendall(b"GET /sample?n=9000 HTTP/1.1\r\nhost: x\r\naccept: application/x-npy\r\n\r\n")
        begun, came = time.monotonic(), 0
        while came < 9000 * 28 * 28 * 4:
            piece = connection.recv(2**18)
            assert piece, f"cut off after {came} bytes"
            came += len(piece)
            time.sleep(0.005)
    assert time.monotonic() - begun > 2 * PATIENCE_S


def test_slow_bodies_take_nobodys_place() -> None:
    """Not even where much of them has come."""
    with running(queue_limit=2) as service, ExitStack() as stack:
        for _ in range(3):
            slow = stack.enter_context(connect(service.port))
            slow.sendall(DECODE + b"content-length: 400000\r\n\r\n" + b" " * 390_000)
        service.wait_for(in_flight=3)
        wait_until(lambda: service.app.state.memory.used >= 3 * 390_000)
        assert service.client.post("/decode", json=[0, 0, 0]).status_code == 200


def test_the_services_own_time_is_not_the_callers(hasty: Running) -> None:
    stalled: list[Stalled] = []

    def make(engine: object) -> Stalled:
        stalled.append(Stalled(engine))  # type: ignore[arg-type]
        return stalled[0]

    loaded = hasty.app.state.model_context
    hasty.swap_engine(make)
    try:
        with connect(hasty.port) as connection:
            connection.sendall(DECODE + b"content-length: 9\r\nconnection: close\r\n\r\n[1, 2, 3]")
            hasty.wait_for(in_flight=1)
            time.sleep(5 * PATIENCE_S)
            stalled[0].released.set()
            assert b"\x89PNG" in rest(connection)
    finally:
        hasty.app.state.model_context = loaded


# Who is gone.
