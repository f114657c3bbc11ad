"""Responses of one turn of the event loop are sent together and in order, and none is lost."""

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from service.http.outbox import BURST, Outbox
from service.inference.engine import Engine
from tests.service.running import Running, Stalled, wait_until

DRAW = b"GET /sample HTTP/1.1\r\nhost: x\r\naccept: image/png\r\n\r\n"
Ends = tuple[asyncio.Transport, socket.socket]


@asynccontextmanager
async def connected() -> AsyncIterator[Ends]:
    """A connection: the service's end and the client's."""
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
    theirs.setblocking(False)
    with theirs:
        yield transport, theirs
        transport.abort()


def read(theirs: socket.socket) -> bytes | None:
    """Return what the client can read: None if there is nothing, b"" if the service has closed the connection."""
    try:
        return theirs.recv(65536)
    except BlockingIOError:
        return None


def run(steps: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(steps)


def busy(answering: int = 3) -> Outbox:
    outbox = Outbox()
    outbox.answering = answering
    return outbox


def test_responses_of_one_turn_are_sent_together() -> None:
    async def steps() -> None:
        outbox = busy()
        async with connected() as (one, first), connected() as (two, second):
            outbox.post(one, b"1")
            outbox.post(two, b"2")
            assert read(first) is read(second) is None
            await asyncio.sleep(0)
            assert (read(first), read(second)) == (b"1", b"2")

    run(steps())


def test_the_response_to_a_single_request_is_sent_at_once() -> None:
    async def steps() -> None:
        outbox = busy(answering=1)
        async with connected() as (transport, theirs):
            outbox.post(transport, b"1")
            assert read(theirs) == b"1"

    run(steps())


def test_the_last_of_several_responses_flushes_the_others() -> None:
    async def steps() -> None:
        outbox = busy(answering=2)
        async with connected() as (one, first), connected() as (two, second):
            outbox.post(one, b"1")
            outbox.answering = 1
            outbox.post(two, b"2")
            assert (read(first), read(second)) == (b"1", b"2")

    run(steps())


def test_at_most_a_burst_is_held() -> None:
    async def steps() -> None:
        outbox = busy()
        async with connected() as (transport, theirs):
            for _ in range(BURST + 1):
                outbox.post(transport, b"x")
            assert read(theirs) == b"x" * BURST
            await asyncio.sleep(0)
            assert read(theirs) == b"x"

    run(steps())


def test_a_write_comes_after_held_responses() -> None:
    async def steps() -> None:
        outbox = busy()
        async with connected() as (transport, theirs):
            outbox.post(transport, b"1")
            outbox.write(transport, b"2", b"3")
            assert read(theirs) == b"123"

    run(steps())


def test_closing_sends_held_responses_first() -> None:
    async def steps() -> None:
        outbox = busy()
        async with connected() as (transport, theirs):
            outbox.post(transport, b"1")
            outbox.close(transport)
            await asyncio.sleep(0.01)
            assert (read(theirs), read(theirs)) == (b"1", b"")

    run(steps())


def test_a_closed_connection_does_not_block_the_others() -> None:
    async def steps() -> None:
        outbox = busy()
        async with connected() as (gone, _), connected() as (transport, theirs):
            gone.abort()
            await asyncio.sleep(0.01)
            outbox.post(gone, b"1")
            outbox.post(transport, b"2")
            await asyncio.sleep(0)
            assert read(theirs) == b"2"

    run(steps())


@pytest.fixture
def stalled(served: Running) -> Iterator[tuple[Running, Stalled]]:
    engines: list[Stalled] = []

    def stall(engine: Engine) -> Engine:
        engines.append(Stalled(engine))
        return engines[0]

    original = served.app.state.model_context
    served.swap_engine(stall)
    yield served, engines[0]
    engines[0].released.set()
    served.app.state.model_context = original


def test_a_request_counts_until_it_is_answered(stalled: tuple[Running, Stalled]) -> None:
    service, engine = stalled
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(DRAW)
        service.wait_for(in_flight=1)
        assert service.outbox.answering == 1
        engine.released.set()
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        wait_until(lambda: service.outbox.answering == 0)


def test_a_cancelled_request_no_longer_counts(stalled: tuple[Running, Stalled]) -> None:
    service, _ = stalled
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(DRAW)
        service.wait_for(in_flight=1)
    service.wait_for(in_flight=0)
    wait_until(lambda: service.outbox.answering == 0)


def test_an_early_response_is_complete_while_others_are_answered(stalled: tuple[Running, Stalled]) -> None:
    service, _ = stalled
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(DRAW)
        service.wait_for(in_flight=1)
        response = service.exchange(b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n[1")
    assert response.startswith(b"HTTP/1.1 415")
    assert response.endswith(b"}")


def test_a_connection_ended_meanwhile_does_not_block_the_others() -> None:
    async def steps() -> None:
        outbox = busy()
        async with connected() as (one, first), connected() as (two, second):
            outbox.post(one, b"1")
            one.write_eof()
            outbox.post(two, b"2")
            outbox.flush()
            await asyncio.sleep(0.01)
            assert (read(first), read(second)) == (b"", b"2")

    run(steps())
