"""Answers of one turn of the event loop go out together, in order, and none is lost."""

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from service.http.outbox import BURST, Outbox
from service.inference.engine import Engine
from tests.service.running import Running, Stalled, running, wait_until

DRAW = b"GET /sample HTTP/1.1\r\nhost: x\r\naccept: image/png\r\n\r\n"
Caller = tuple[asyncio.Transport, socket.socket]


@asynccontextmanager
async def caller() -> AsyncIterator[Caller]:
    """A connection: the service's end, and the caller's."""
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
    theirs.setblocking(False)
    with theirs:
        yield transport, theirs
        transport.abort()


def came(theirs: socket.socket) -> bytes | None:
    """What the caller can read; nothing where there is nothing, and b"" where the service has hung up."""
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


def test_answers_of_one_turn_go_out_at_its_end() -> None:
    async def steps() -> None:
        outbox = busy()
        async with caller() as (one, first), caller() as (two, second):
            outbox.post(one, b"1")
            outbox.post(two, b"2")
            assert came(first) is came(second) is None
            await asyncio.sleep(0)
            assert (came(first), came(second)) == (b"1", b"2")

    run(steps())


def test_the_answer_to_a_lone_request_waits_for_nothing() -> None:
    async def steps() -> None:
        outbox = busy(answering=1)
        async with caller() as (transport, theirs):
            outbox.post(transport, b"1")
            assert came(theirs) == b"1"

    run(steps())


def test_the_last_of_several_waits_for_nothing_nor_do_the_others() -> None:
    async def steps() -> None:
        outbox = busy(answering=2)
        async with caller() as (one, first), caller() as (two, second):
            outbox.post(one, b"1")
            outbox.answering = 1
            outbox.post(two, b"2")
            assert (came(first), came(second)) == (b"1", b"2")

    run(steps())


def test_no_more_is_held_than_a_burst() -> None:
    async def steps() -> None:
        outbox = busy()
        async with caller() as (transport, theirs):
            for _ in range(BURST + 1):
                outbox.post(transport, b"x")
            assert came(theirs) == b"x" * BURST
            await asyncio.sleep(0)
            assert came(theirs) == b"x"

    run(steps())


def test_what_is_sent_at_once_comes_after_what_is_held() -> None:
    async def steps() -> None:
        outbox = busy()
        async with caller() as (transport, theirs):
            outbox.post(transport, b"1")
            outbox.write(transport, b"2", b"3")
            assert came(theirs) == b"123"

    run(steps())


def test_nothing_held_is_lost_by_hanging_up() -> None:
    async def steps() -> None:
        outbox = busy()
        async with caller() as (transport, theirs):
            outbox.post(transport, b"1")
            outbox.close(transport)
            await asyncio.sleep(0.01)
            assert (came(theirs), came(theirs)) == (b"1", b"")

    run(steps())


def test_who_has_gone_keeps_nobody_from_an_answer() -> None:
    async def steps() -> None:
        outbox = busy()
        async with caller() as (gone, _), caller() as (transport, theirs):
            gone.abort()
            await asyncio.sleep(0.01)
            outbox.post(gone, b"1")
            outbox.post(transport, b"2")
            await asyncio.sleep(0)
            assert came(theirs) == b"2"

    run(steps())


@pytest.fixture
def stalled() -> Iterator[tuple[Running, Stalled]]:
    engines: list[Stalled] = []

    def stall(engine: Engine) -> Engine:
        engines.append(Stalled(engine))
        return engines[0]

    with running() as service:
        service.swap_engine(stall)
        yield service, engines[0]
        engines[0].released.set()


def test_a_request_counts_until_it_is_answered(stalled: tuple[Running, Stalled]) -> None:
    service, engine = stalled
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(DRAW)
        service.wait_for(in_flight=1)
        assert service.outbox.answering == 1
        engine.released.set()
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        wait_until(lambda: service.outbox.answering == 0)


def test_a_request_that_is_broken_off_counts_no_longer(stalled: tuple[Running, Stalled]) -> None:
    service, _ = stalled
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(DRAW)
        service.wait_for(in_flight=1)
    service.wait_for(in_flight=0)
    wait_until(lambda: service.outbox.answering == 0)


def test_an_answer_before_the_body_has_come_is_whole_beside_others(stalled: tuple[Running, Stalled]) -> None:
    service, _ = stalled
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(DRAW)
        service.wait_for(in_flight=1)
        answer = service.exchange(b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n[1")
    assert answer.startswith(b"HTTP/1.1 415")
    assert answer.endswith(b"}")


def test_a_connection_that_is_ended_meanwhile_takes_no_others_answer_with_it() -> None:
    async def steps() -> None:
        outbox = busy()
        async with caller() as (one, first), caller() as (two, second):
            outbox.post(one, b"1")
            one.write_eof()
            outbox.post(two, b"2")
            outbox.flush()
            await asyncio.sleep(0.01)
            assert (came(first), came(second)) == (b"", b"2")

    run(steps())
