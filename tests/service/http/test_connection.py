"""HTTP/1.1 on a real socket."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
from contextlib import ExitStack
from threading import Event, Thread

import numpy as np
import pytest
from starlette.types import Receive, Scope, Send

from service.http.cycle import Cycle
from service.http.request_parser import FIELD_LIMIT, HEAD_LIMIT
from tests.service.http.wire import (
    DECODE,
    LAST_PROBE,
    PROBE,
    connect,
    count_received,
    exchange,
    receive_all,
    receive_until,
    serving,
)
from tests.service.running import Running, running, wait_until


def test_pipelined_requests_are_answered_in_their_order(served: Running) -> None:
    bodies = [b"[%d, 0, 0]" % i for i in range(20)]
    requests = [DECODE + b"accept: application/json\r\ncontent-length: %d\r\n\r\n" % len(b) + b for b in bodies]
    responses = served.exchange(b"".join(requests) + LAST_PROBE).split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert len(responses) == 21
    headers = {"content-type": "application/json", "accept": "application/json"}
    alone = [served.client.post("/decode", content=b, headers=headers) for b in bodies]
    assert len({response.content for response in alone}) == 20
    for response, other in zip(responses, alone, strict=False):
        assert response.partition(b"\r\n\r\n")[2] == other.content


def test_a_request_byte_by_byte(served: Running) -> None:
    with connect(served.port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = DECODE + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[1\r\n5\r\n,2,3]\r\n0\r\n\r\n"
        for byte in request:
            connection.sendall(bytes([byte]))
            time.sleep(0.0005)
        assert b"\x89PNG" in receive_all(connection)


def test_the_connection_is_kept_or_closed_as_asked(served: Running) -> None:
    with connect(served.port) as connection:
        connection.sendall(PROBE)
        assert b"connection: close" not in receive_until(connection, b"}")
        connection.sendall(LAST_PROBE)
        assert b"connection: close" in receive_all(connection)
    assert b"connection: close" in served.exchange(b"GET /livez HTTP/1.0\r\n\r\n")


def test_head_has_no_body(served: Running) -> None:
    response = served.exchange(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    head, end, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-length: " in head
    assert (end, body) == (b"\r\n\r\n", b"")


def test_absolute_and_encoded_targets(served: Running) -> None:
    assert served.exchange(LAST_PROBE.replace(b"/livez", b"http://x/livez?")).startswith(b"HTTP/1.1 200")
    assert served.exchange(LAST_PROBE.replace(b"/livez", b"/%6Civez")).startswith(b"HTTP/1.1 200")
    assert served.exchange(LAST_PROBE.replace(b"/livez", b"/liv\xffz")).startswith(b"HTTP/1.1 400")


def test_a_client_that_expects_100_continue_gets_it(served: Running) -> None:
    with connect(served.port) as connection:
        connection.sendall(DECODE + b"connection: close\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n")
        assert receive_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"[1, 2, 3]")
        assert b"\x89PNG" in receive_all(connection)


def test_an_upgrade_to_http_2_is_declined(served: Running) -> None:
    """Java's client makes one with its first request."""
    upgrade = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAAA\r\n"
    responses = served.exchange(
        DECODE
        + upgrade
        + b"content-length: 9\r\n\r\n[1, 2, 3]"
        + PROBE.replace(b"host", upgrade + b"host")
        + LAST_PROBE
    )
    assert responses.count(b"HTTP/1.1 200") == 3
    assert b"\x89PNG" in responses


def test_a_too_large_body_is_refused_before_it_is_received(impatient: Running) -> None:
    """The response is not lost, although the client goes on sending."""
    with connect(impatient.port) as connection:
        connection.sendall(DECODE + b"content-length: 100000000\r\n\r\n" + b"1" * 100_000)
        response = receive_until(connection, b"}")
        assert response.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in response
        connection.sendall(b"1" * 1_000_000)
        assert receive_all(connection) == b""


def test_a_large_body_pauses_reading(served: Running) -> None:
    """Reading is paused and resumed within a request, and for the next one."""
    with connect(served.port) as connection:
        for _ in range(3):
            body = b" " * 3_000_000 + b"[1, 2, 3]"
            connection.sendall(DECODE + b"content-length: %d\r\n\r\n" % len(body) + body)
            assert receive_until(connection, b"IEND\xaeB`\x82").startswith(b"HTTP/1.1 200")


def test_data_that_the_application_does_not_take_is_not_read() -> None:
    """Neither one large body nor many pipelined requests."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1.5)

    with serving(app) as port:
        for flood in (b"content-length: 50000000\r\n\r\n" + bytes(50_000_000), b"\r\n" + PROBE * 1_000_000):
            with connect(port) as connection:
                connection.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\n" + flood)


# What is refused.


@pytest.mark.parametrize(
    "smuggled",
    [
        b"content-length: 9\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"content-length: 9\r\ncontent-length: 8\r\n\r\n[1, 2, 3]",
        b"content-length: +9\r\n\r\n[1, 2, 3]",
        b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        b" folded: field\r\ncontent-length: 9\r\n\r\n[1, 2, 3]",
    ],
)
def test_request_smuggling_is_refused(served: Running, smuggled: bytes) -> None:
    response = served.exchange(DECODE + smuggled + LAST_PROBE)
    assert response.startswith(b"HTTP/1.1 400")
    assert response.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * (HEAD_LIMIT + 1) + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: %b\r\n" % (i, b"y" * 1000) for i in range(70)) + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 500_000,
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * FIELD_LIMIT + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 5_000_000,  # the client sends all of it before it reads the response
    ],
)
def test_a_too_large_head_is_refused(served: Running, head: bytes) -> None:
    with connect(served.port) as connection:
        connection.sendall(head)
        response = receive_all(connection)
    assert response.startswith(b"HTTP/1.1 431")
    assert b"application/problem+json" in response


def test_the_largest_head_is_accepted(served: Running) -> None:
    fields = b"".join(b"x-%d: %b\r\n" % (i, b"y" * 1000) for i in range(60))
    assert served.exchange(LAST_PROBE.replace(b"host", fields + b"host")).startswith(b"HTTP/1.1 200")


# Who keeps the service waiting.


def test_a_request_is_cancelled_when_its_client_disconnects(served: Running) -> None:
    cancelled: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with serving(app) as port:
        with connect(port) as connection:
            connection.sendall(PROBE)
            time.sleep(0.2)
            assert not cancelled
        wait_until(lambda: bool(cancelled))


# What an application may do wrong, or seldom does.


def test_a_response_of_unknown_length_is_chunked() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one", b"", b"three"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    with serving(app) as port:
        response = exchange(port, LAST_PROBE)
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


@pytest.mark.parametrize("sent", [b"too", b"too much"])
def test_the_body_has_its_declared_length(sent: bytes) -> None:
    """A client would take surplus bytes for the next response."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": sent})

    with serving(app) as port, connect(port) as connection:
        connection.sendall(PROBE)
        response = receive_until(connection, sent[:5])
        if len(sent) < 5:
            assert receive_all(connection) == b""
        else:
            connection.sendall(PROBE)
            assert receive_until(connection, sent[:5]).startswith(b"HTTP/1.1 200")
    assert response.endswith(b"\r\n\r\n" + sent[:5])


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb"])
def test_a_header_field_with_a_line_break_is_an_error(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-seed", value)]})
        await send({"type": "http.response.body", "body": b""})

    with serving(app) as port:
        response = exchange(port, LAST_PROBE)
    assert response.startswith(b"HTTP/1.1 500")
    assert b"cookie" not in response
    assert "line break" in caplog.text


def test_an_application_fails_before_and_within_its_response(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise RuntimeError("the secret")

    with serving(app) as port:
        early, late = exchange(port, LAST_PROBE), exchange(port, LAST_PROBE.replace(b"livez", b"late"))
        silent = exchange(port, LAST_PROBE.replace(b"livez", b"late").replace(b"GET", b"HEAD"))
    assert early.startswith(b"HTTP/1.1 500")
    assert b"secret" not in early
    assert late.endswith(b"1\r\nx\r\n")  # without the last chunk
    assert silent.startswith(b"HTTP/1.1 200")
    assert caplog.text.count("RuntimeError: the secret") == 3


def test_an_application_that_sends_nothing_gets_its_connection_closed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    with serving(app) as port:
        assert exchange(port, LAST_PROBE) == b""


# What a connection sends ahead.


@pytest.mark.parametrize("junk", [b"junk\r\n\r\n", b"\0" * 9, b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00"])
def test_complete_requests_are_answered_before_junk_is_refused(served: Running, junk: bytes) -> None:
    body = DECODE + b"accept: application/json\r\ncontent-length: 9\r\n\r\n[1, 2, 3]"
    first, second, refusal = served.exchange(body + PROBE + junk).split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200 ")
    assert b"pixels" in first
    assert second.startswith(b"200 ")
    assert refusal[:3] in (b"400", b"505")
    assert b"connection: close" in refusal


def test_complete_requests_are_answered_before_an_invalid_one_is_refused(served: Running) -> None:
    chunked = DECODE + b"transfer-encoding: chunked\r\n\r\nno number\r\n"
    first, refusal = served.exchange(PROBE + chunked).split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200 ")
    assert refusal.startswith(b"400 ")


def test_nothing_after_the_last_request_is_answered() -> None:
    with running(log_level="warning") as service:
        (response,) = service.exchange(LAST_PROBE + PROBE).split(b"HTTP/1.1 ")[1:]
        assert response.startswith(b"200 ")
        assert 'status="400"' not in service.client.get("/metrics").text


def test_few_requests_are_parsed_before_the_first_is_answered() -> None:
    begun: list[int] = []
    goes_on = Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(len(parsed()))
        await asyncio.to_thread(goes_on.wait, 10)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    def parsed() -> list[Cycle]:
        return [each for each in gc.get_objects() if type(each) is Cycle]

    with serving(app) as port, connect(port) as connection:
        connection.sendall(PROBE * 10_000)
        wait_until(lambda: bool(begun))
        time.sleep(0.2)
        assert 1 < len(parsed()) < 100
        goes_on.set()
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_pipelining_connection_gets_one_response_per_turn() -> None:
    """Two connections are answered alternately."""
    order: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        order.append(scope["raw_path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    with serving(app) as port, connect(port) as greedy, connect(port) as other:
        greedy.sendall(b"GET /greedy HTTP/1.1\r\nhost: x\r\n\r\n" * 20_000)
        wait_until(lambda: bool(order))
        other.sendall(b"GET /other HTTP/1.1\r\nhost: x\r\n\r\n")
        assert other.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda: len(order) == 20_001)
    assert order.index(b"/other") < 19_000


def test_a_large_body_between_pipelined_requests(served: Running) -> None:
    z = np.random.default_rng(0).normal(size=(9000, 3)).tolist()
    body = json.dumps(z).encode()
    fields = b"accept: application/x-npy\r\n"
    for framed in (
        b"content-length: %d\r\n\r\n%b" % (len(body), body),
        b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
    ):
        responses = served.exchange(PROBE + (DECODE + fields + framed) * 2 + LAST_PROBE).split(b"HTTP/1.1 200 OK\r\n")
        assert len(responses) == 5
        assert responses[2].partition(b"\r\n\r\n")[2] == responses[3].partition(b"\r\n\r\n")[2]
        assert len(responses[2]) > 9000 * 28 * 28 * 4


def test_parsing_does_not_run_in_the_task_that_takes_the_body() -> None:
    """An error would cancel that task, which might still respond after the end of the connection."""
    parsed: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.2)
        await receive()
        parsed.append(receive.__self__.buffered)  # type: ignore[attr-defined]  # it is a Cycle's
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    with serving(app) as port, connect(port) as connection:
        connection.sendall(DECODE + b"content-length: 1000000\r\n\r\n" + b" " * 700_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert parsed == [0]


def test_many_fields_are_refused_as_they_come(served: Running) -> None:
    with connect(served.port) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * (FIELD_LIMIT + 1))
        assert connection.recv(1000).startswith(b"HTTP/1.1 431")


def test_an_error_after_an_error_response_is_reported(served: Running) -> None:
    """The parser is called there while another exception is being handled."""
    nothing = b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n"
    too_many = b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n"
    responses = served.exchange(nothing + PROBE + too_many).split(b"HTTP/1.1 ")[1:]
    assert [response[:3] for response in responses] == [b"404", b"200", b"431"]


def test_a_failed_connection_releases_its_memory() -> None:
    """The bytes that it had sent ahead were charged."""
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    nothing = b"POST /nothing HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    large = b"GET /sample?n=2500 HTTP/1.1\r\nhost: x\r\naccept: application/x-npy\r\n\r\n"
    with running(client_timeout=2) as service, connect(service.port) as connection:
        sender = Thread(target=connection.sendall, args=(large + nothing + chunk * 160,))
        sender.start()
        time.sleep(1)
        assert service.app.state.memory.used > 0
        count_received(connection)
        sender.join()
        wait_until(lambda: service.app.state.memory.used == 0, limit=8)


def test_small_pieces_of_a_body_count_with_their_overhead() -> None:
    cycle = Cycle(None, {}, keep_alive=True)  # type: ignore[arg-type]
    for _ in range(1000):
        cycle.feed(b"x")
    assert cycle.buffered > 50_000


def test_shared_responses_are_not_charged(served: Running) -> None:
    wait_until(lambda: served.app.state.memory.used == 0)
    with ExitStack() as stack:
        for _ in range(5):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.connect(("127.0.0.1", served.port))
            connection.sendall(b"GET /latents HTTP/1.1\r\nhost: x\r\n\r\n" * 20)
        time.sleep(0.3)
        assert served.app.state.memory.used == 0
