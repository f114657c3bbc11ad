"""Each transition in the table of Connection's docstring, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from service.http import connection as module
from service.http.connection import Connection
from service.http.request_parser import HEAD_PIECE
from service.http.state import State
from service.http.timeouts import Timeouts
from service.memory_budget import MemoryBudget

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
RECEIVES = {State.IDLE: b"", State.HEAD: GET[:9], State.BODY: POST}
"""What a client sends to bring a connection into a state."""
LIMIT_S = 5


@dataclass
class Peer:
    """A client's end of a connection, the service's end, and the application behind it."""

    reader: asyncio.StreamReader = field(init=False)
    writer: asyncio.StreamWriter = field(init=False)
    connection: Connection = field(init=False)
    may_respond: asyncio.Event = field(default_factory=asyncio.Event)
    memory: MemoryBudget = field(default_factory=lambda: MemoryBudget(2**30))
    chunk: bytes = b""
    """Written at the beginning of each response, before `may_respond`."""
    state: dict[str, Any] = field(default_factory=dict)
    """What connections share, beside the timeouts and the memory."""

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if self.chunk:
            await send({"type": "http.response.body", "body": self.chunk, "more_body": True})
        await self.may_respond.wait()
        await send({"type": "http.response.body", "body": b"done"})

    async def send(self, data: bytes, state: State) -> None:
        """Send `data`, and wait until the connection is in `state`."""
        self.writer.write(data)
        await self.reaches(state)

    async def reaches(self, state: State) -> None:
        async with asyncio.timeout(LIMIT_S):
            while self.connection.state is not state:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.002)

    async def receive_all(self) -> bytes:
        """What is received until the service closes the connection."""
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.read()


@asynccontextmanager
async def connected(timeouts: Timeouts, peer: Peer) -> AsyncIterator[Peer]:
    config, server = Config(peer.app, interface="asgi3", lifespan="off", log_config=None), ServerState()
    config.load()
    app_state = {"timeouts": timeouts, "memory": peer.memory, **peer.state}
    make = partial(Connection, config, server, app_state)
    listener = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    peer.reader, peer.writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    while not server.connections:  # noqa: ASYNC110 - nothing tells it
        await asyncio.sleep(0.002)
    (peer.connection,) = server.connections  # type: ignore[assignment]
    try:
        yield peer
    finally:
        peer.writer.close()
        peer.connection.transport.abort()  # it may not be reading
        while server.connections:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.002)
        listener.close()
        await listener.wait_closed()


def check(
    steps: Callable[[Peer], Awaitable[None]],
    client: float = 30,
    idle: float = 30,
    chunk: bytes = b"",
) -> None:
    """Take `steps` on a new connection with these timeouts."""

    async def take_steps() -> None:
        async with connected(Timeouts(client, idle), Peer(chunk=chunk)) as peer:
            await steps(peer)

    uvloop.run(take_steps())


def test_a_request_is_received() -> None:
    async def steps(peer: Peer) -> None:
        assert peer.connection.state is State.IDLE
        await peer.send(POST[:4], State.HEAD)
        await peer.send(POST[4:], State.BODY)
        await peer.send(b"1\r\nx\r\n0\r\n\r\n", State.IDLE)

    check(steps)


@pytest.mark.parametrize("state", RECEIVES)
def test_an_error_behind_a_request_waits_for_its_response(state: State) -> None:
    async def steps(peer: Peer) -> None:
        await peer.send(GET + RECEIVES[state] + b"\0\r\n", State.FAILED)
        await asyncio.sleep(0.01)
        assert peer.connection.state is State.FAILED
        peer.may_respond.set()
        await peer.reaches(State.LINGERING)
        first, second = (await peer.receive_all()).split(b"HTTP/1.1 ")[1:]
        assert first.startswith(b"200 ")
        assert second.startswith(b"400 ")

    check(steps)


@pytest.mark.parametrize("state", RECEIVES)
def test_an_error_alone_is_sent_at_once(state: State) -> None:
    async def steps(peer: Peer) -> None:
        await peer.send(RECEIVES[state], state)
        await peer.send(b"\0\r\n", State.LINGERING)
        assert (await peer.receive_all()).startswith(b"HTTP/1.1 400 ")

    check(steps)


def test_without_memory_for_what_is_received_the_client_is_told_when_to_try_again() -> None:
    async def steps(peer: Peer) -> None:
        peer.memory.reserve(2**30)
        await peer.send(GET, State.IDLE)
        await peer.send(POST + b"%x\r\n%b" % (2**20, bytes(2**19)), State.FAILED)
        peer.may_respond.set()
        _, refusal = (await peer.receive_all()).split(b"HTTP/1.1 ")[1:]
        assert refusal.startswith(b"503 ")
        assert b"\r\nretry-after: 1\r\n" in refusal

    check(steps)


@pytest.mark.parametrize("state", [State.HEAD, State.BODY])
def test_a_slow_request_is_status_408(state: State) -> None:
    async def steps(peer: Peer) -> None:
        await peer.send(RECEIVES[state], state)
        await peer.reaches(State.LINGERING)
        assert (await peer.receive_all()).startswith(b"HTTP/1.1 408 ")

    check(steps, client=0.05)


@pytest.mark.parametrize(
    ("sent", "state", "responses"),
    [
        (POST, State.BODY, 1),  # an incomplete request
        (GET * 80, State.HEAD, HEAD_PIECE // len(GET)),  # the rest is not parsed
        (LAST_GET + GET, State.FAILED, 1),  # nothing may follow the first
    ],
)
def test_the_last_response_ends_before_all_is_received(sent: bytes, state: State, responses: int) -> None:
    async def steps(peer: Peer) -> None:
        await peer.send(sent, state)
        peer.connection.shutdown()
        peer.may_respond.set()
        await peer.reaches(State.LINGERING)
        assert (await peer.receive_all()).count(b"HTTP/1.1 200 ") == responses

    check(steps)


@pytest.mark.parametrize(("sent", "state"), [(LAST_GET, State.IDLE), (GET + GET[:9], State.HEAD)])
def test_the_last_response_ends_after_all_is_parsed(sent: bytes, state: State) -> None:
    async def steps(peer: Peer) -> None:
        await peer.send(sent, state)
        peer.connection.shutdown()
        peer.may_respond.set()
        await peer.reaches(State.CLOSED)
        assert (await peer.receive_all()).count(b"HTTP/1.1 200 ") == 1

    check(steps)


def test_an_error_within_a_response() -> None:
    async def steps(peer: Peer) -> None:
        await peer.send(POST, State.BODY)
        assert await peer.reader.readuntil(b"begun") != b""
        await peer.send(b"\0\r\n", State.CLOSED)
        assert await peer.receive_all() == b"\r\n"  # of the chunk

    check(steps, chunk=b"begun")


def test_a_slow_body_within_a_response() -> None:
    async def steps(peer: Peer) -> None:
        await peer.send(POST, State.BODY)
        await peer.reaches(State.CLOSED)
        assert (await peer.receive_all()).endswith(b"begun\r\n")

    check(steps, chunk=b"begun", client=0.05)


@pytest.mark.parametrize(("client", "idle", "before"), [(0.05, 30, b""), (30, 0.05, GET)])
def test_an_idle_connection_is_closed(client: float, idle: float, before: bytes) -> None:
    async def steps(peer: Peer) -> None:
        peer.may_respond.set()
        peer.writer.write(before)
        await peer.reaches(State.CLOSED)
        assert (await peer.receive_all()).count(b"HTTP/1.1 200 ") == bool(before)

    check(steps, client, idle)


def test_an_idle_connection_is_closed_at_a_stop() -> None:
    async def steps(peer: Peer) -> None:
        peer.connection.shutdown()
        assert peer.connection.state is State.IDLE
        await peer.reaches(State.CLOSED)
        assert await peer.receive_all() == b""

    check(steps)


@pytest.mark.parametrize("ended_by", ["LINGER_S", "LINGER_BYTES"])
def test_lingering_ends(monkeypatch: pytest.MonkeyPatch, ended_by: str) -> None:
    monkeypatch.setattr(module, ended_by, 0.02)

    async def steps(peer: Peer) -> None:
        await peer.send(b"\0\r\n", State.LINGERING)
        await peer.send(b"x" if ended_by == "LINGER_BYTES" else b"", State.CLOSED)

    check(steps, client=0.1)


@pytest.mark.parametrize(
    ("sent", "state"),
    [
        *((sent, state) for state, sent in RECEIVES.items()),
        (GET, State.IDLE),
        (b"\0\r\n", State.LINGERING),
    ],
)
def test_the_client_closes_the_connection(sent: bytes, state: State) -> None:
    async def steps(peer: Peer) -> None:
        await peer.send(sent, state)
        peer.writer.close()
        await peer.reaches(State.CLOSED)
        assert not peer.connection._cycles

    check(steps)


def test_the_client_reads_too_slowly() -> None:
    async def steps(peer: Peer) -> None:
        await peer.send(GET, State.CLOSED)

    check(steps, client=0.05, chunk=bytes(2**25))
