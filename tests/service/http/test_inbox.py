"""Requests begin in rounds and in order; waiting for a round loses nothing and does not count towards timeouts."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from threading import Event
from typing import Any

import pytest
import uvloop

from service.http.connection import BODY_BUFFER, Connection
from service.http.inbox import ROUND, TURNS, Inbox
from tests.service.running import Running, running, wait_until

DECODE = b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
LATENT = b"[0, 1, 2]"
TIMEOUT_S = 0.3


def run(steps: Callable[[Inbox], Coroutine[Any, Any, None]]) -> None:
    async def with_inbox() -> None:
        await steps(Inbox(asyncio.get_running_loop()))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(with_inbox())


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_up_to_a_round_of_requests_begins_at_once() -> None:
    async def steps(inbox: Inbox) -> None:
        begun: list[int] = []
        for number in range(ROUND):
            inbox.enter(partial(begun.append, number))
            assert begun[-1] == number
        await turns(1)
        inbox.enter(partial(begun.append, ROUND))
        assert begun[-1] == ROUND

    run(steps)


def test_the_rest_begins_in_rounds_in_order() -> None:
    async def steps(inbox: Inbox) -> None:
        begun: list[int] = []
        for number in range(2 * ROUND + 1):
            inbox.enter(partial(begun.append, number))
        await turns(TURNS - 1)
        inbox.enter(partial(begun.append, 2 * ROUND + 1))
        assert begun == [*range(ROUND)]
        await turns(1)
        assert begun == [*range(2 * ROUND)]
        await turns(TURNS)
        assert begun == [*range(2 * ROUND + 2)]

    run(steps)


@pytest.mark.parametrize(("micro_batch_limit", "together"), [(8, ROUND), (2 * ROUND, 2 * ROUND)])
def test_a_round_is_at_least_as_large_as_a_micro_batch(micro_batch_limit: int, together: int) -> None:
    with running(micro_batch_limit=micro_batch_limit) as service:
        inbox: Inbox = service.state["inbox"]
        begun: list[int] = []

        async def enter() -> None:
            for number in range(together + 1):
                inbox.enter(partial(begun.append, number))
            assert len(begun) == together
            await turns(TURNS)

        asyncio.run_coroutine_threadsafe(enter(), inbox._loop).result()
    assert begun == [*range(together + 1)]


class Holding(Inbox):
    """Begins nothing before `begin` is called."""

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] = []
        self.is_open = False
        """Whether requests begin at once from now on."""

    def enter(self, begin: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        if self.is_open:
            begin()
        else:
            self.held.append(begin)

    def connection(self) -> Connection:
        """The connection of the first request that is held."""
        begin: Any = self.held[0]
        asked: Connection = begin.__self__
        return asked

    def begin(self) -> None:
        """Begin all that is held, and wait until it has begun."""
        begun = Event()
        while self.held:
            self._loop.call_soon_threadsafe(self.held.pop(0))
        self._loop.call_soon_threadsafe(begun.set)
        begun.wait()


@pytest.fixture
def holding(impatient: Running) -> Iterator[tuple[Running, Holding]]:
    """The service and an inbox for its next connections."""
    original, inbox = {**impatient.state}, Holding()
    impatient.state.update(inbox=inbox, fast_path=None)
    yield impatient, inbox
    inbox.begin()
    impatient.state.update(original)


def connect(service: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=10)


def taken(connection: socket.socket, body: bytes) -> int:
    """Send `body` until nothing more is accepted for some time; return the number of bytes sent."""
    connection.settimeout(0.3)
    sent = 0
    with suppress(TimeoutError):
        while sent < len(body):
            sent += connection.send(body[sent:])
    return sent


def test_data_received_before_a_request_begins_belongs_to_it(holding: tuple[Running, Holding]) -> None:
    service, inbox = holding
    with connect(service) as connection:
        connection.sendall(DECODE)
        wait_until(lambda: len(inbox.held) == 1)
        connection.sendall(LATENT)
        time.sleep(0.05)
        assert len(inbox.held) == 1
        inbox.begin()
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_the_next_request_of_a_connection_waits_too(holding: tuple[Running, Holding]) -> None:
    service, inbox = holding
    with connect(service) as connection:
        for _ in range(2):
            connection.sendall(DECODE + LATENT)
            wait_until(lambda: len(inbox.held) == 1)
            inbox.begin()
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_body_is_not_buffered_before_its_request_begins(holding: tuple[Running, Holding]) -> None:
    service, inbox = holding
    body = b"[" + b" " * 2**24 + b"]"
    with connect(service) as connection:
        connection.sendall(b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body))
        wait_until(lambda: len(inbox.held) == 1)
        sent = taken(connection, body)
        assert len(inbox.connection()._parser.unparsed) < 4 * BODY_BUFFER
        inbox.is_open = True
        inbox.begin()
        connection.settimeout(10)
        connection.sendall(body[sent:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 415")


def test_the_rest_of_a_head_is_parsed_when_its_request_begins(holding: tuple[Running, Holding]) -> None:
    service, inbox = holding
    with connect(service) as connection:
        connection.sendall(DECODE[:9])
        wait_until(lambda: len(inbox.held) == 1)
        connection.sendall(DECODE[9:20])
        wait_until(lambda: inbox.connection()._parser.unparsed == DECODE[:20])
        inbox.is_open = True
        inbox.begin()
        connection.sendall(DECODE[20:] + LATENT)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_discarded_data_does_not_wait_for_a_round(holding: tuple[Running, Holding]) -> None:
    service, inbox = holding
    with connect(service) as connection:
        connection.sendall(b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n")
        wait_until(lambda: len(inbox.held) == 1)
        inbox.begin()
        assert connection.recv(65536).startswith(b"HTTP/1.1 415")
        connection.sendall(b"more")
        time.sleep(0.05)
        assert not inbox.held


def test_a_client_that_disconnects_before_its_request_begins_is_skipped(
    holding: tuple[Running, Holding], caplog: pytest.LogCaptureFixture
) -> None:
    service, inbox = holding
    with connect(service) as connection, connect(service) as other:
        connection.sendall(DECODE + LATENT)
        other.sendall(DECODE + LATENT)
        wait_until(lambda: len(inbox.held) == 2)
        connection.close()
        time.sleep(0.05)
        inbox.begin()
        assert other.recv(65536).startswith(b"HTTP/1.1 200")
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_waiting_for_a_round_does_not_count_towards_timeouts(holding: tuple[Running, Holding]) -> None:
    service, inbox = holding
    with connect(service) as connection:
        connection.sendall(DECODE + LATENT)
        time.sleep(3 * TIMEOUT_S)
        inbox.begin()
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_stop_answers_waiting_requests(holding: tuple[Running, Holding]) -> None:
    service, inbox = holding
    with connect(service) as connection:
        connection.sendall(DECODE + LATENT)
        wait_until(lambda: len(inbox.held) == 1)
        inbox._loop.call_soon_threadsafe(inbox.connection().shutdown)
        time.sleep(2 * TIMEOUT_S)
        inbox.begin()
        response = b"".join(iter(lambda: connection.recv(65536), b""))
        assert response.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in response
