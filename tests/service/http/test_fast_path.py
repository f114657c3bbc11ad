"""Which requests take the fast path, and how a connection answers them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from service.http import fast_path as module
from service.http.fast_path import MAX_HEAD, Client, FastPath, FastRequest
from service.http.state import State
from service.http.timeouts import Timeouts
from tests.service.http.test_states import GET, LIMIT_S, POST, Peer, connected

LINES = b"POST /decode?scale=2 HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n"
HEAD, BODY = LINES + b"\r\n", b"[1, 2, 3]"
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ANSWER = b"HTTP/1.1 200 OK\r\ndate: today\r\na: b\r\n\r\nfast"
LAST_ANSWER = ANSWER.replace(b"a: b\r\n", b"a: b\r\nconnection: close\r\n")
GENERATION = Mock(value=1)
NOBODY: Any = object()
"""A client that is not answered."""


class Request(FastRequest):
    def __init__(self, client: Client, data: bytes, body: bytes, varying: Mapping[bytes, bytes]) -> None:
        self.keep_alive = True
        self.client, self.data, self.body, self.varying = client, data, body, varying
        self.is_cancelled = False

    def answer(self) -> None:
        self.client.respond(b"a: b\r\n", b"fast")

    def cancel(self) -> None:
        self.is_cancelled = True


@dataclass
class Plan:
    """Plans for every head, keeps their scopes, and is the plan."""

    content_length: int = len(BODY)
    refuses: bool = False
    begun: list[Request] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)

    def __call__(self, scope: Scope) -> Plan:
        self.scopes.append(scope)
        return self

    def begin(self, client: Client, data: bytes, body: bytes, varying: Mapping[bytes, bytes]) -> Request | None:
        if self.refuses:
            return None
        self.begun.append(Request(client, data, body, varying))
        return self.begun[-1]


def offer(fast_path: FastPath, data: bytes) -> FastRequest | None:
    """Begin a request, or let the fast path learn from it, as a connection does."""
    request = fast_path.begin(NOBODY, data)
    if request is None:
        fast_path.learn(data, {})
    return request


# Which requests have a plan.


def test_a_head_is_planned_once() -> None:
    plan = Plan()
    fast_path = FastPath(plan, GENERATION)
    assert offer(fast_path, HEAD + BODY) is None
    for body in (BODY, b"[4, 5, 6]", b"[7, 8, 9]"):
        assert offer(fast_path, HEAD + body) is plan.begun[-1]
        last = plan.begun[-1]
        assert (last.client, last.data, last.body, last.varying) == (NOBODY, HEAD + body, body, {})
    assert len(plan.scopes) == 1
    for other in (HEAD.replace(b"2", b"3"), HEAD.replace(b"host: x", b"host: y"), LINES + b"a: b\r\n\r\n"):
        assert offer(fast_path, other + BODY) is None


@pytest.mark.parametrize(
    ("fields", "varying"),
    [
        (b"x-request-id: one\r\n", {b"x-request-id": b"one"}),
        (b"X-Request-ID:  two \r\n", {b"x-request-id": b"two "}),
        (b"x-request-id:\r\n", {}),
        (b"traceparent:" + TRACE + b"\r\nx-request-id: a b\r\n", {b"x-request-id": b"a b", b"traceparent": TRACE}),
    ],
)
@pytest.mark.parametrize("place", [b"content-length", b"host", b"\r\n"])
def test_the_values_of_fields_that_vary_are_no_part_of_a_head(
    fields: bytes, varying: dict[bytes, bytes], place: bytes
) -> None:
    plan = Plan()
    fast_path = FastPath(plan, GENERATION)
    with_fields = LINES + fields + b"\r\n" if place == b"\r\n" else HEAD.replace(place, fields + place)
    with_others = re.sub(rb"(?i)((?:request-id|parent):)[^\r]*", rb"\1 other", with_fields)
    assert [offer(fast_path, head + BODY) for head in (HEAD, with_others)] == [None, None]
    assert [offer(fast_path, with_fields + BODY)] == plan.begun
    assert plan.begun[-1].varying == varying
    assert plan.begun[-1].data == with_fields + BODY
    assert len(plan.scopes) == 2


@pytest.mark.parametrize(
    "value", [b"a\x01b", b"a\nb: c", b"a\r\n b", b"a\0", b"one\r\nX-Request-Id: two", b"a\x7f", b"y" * MAX_HEAD]
)
def test_a_field_that_varies_but_is_not_plain_is_left_to_the_parser(value: bytes) -> None:
    fast_path = FastPath(Plan(), GENERATION)
    head = LINES + b"x-request-id: %b\r\n\r\n"
    assert [offer(fast_path, head % each + BODY) is None for each in (b"a", b"b")] == [True, False]
    assert fast_path.begin(NOBODY, head % value + BODY) is None


@pytest.mark.parametrize("data", [HEAD[:-1], HEAD, HEAD + BODY[:-1], HEAD + BODY + b"P", (HEAD + BODY) * 2, BODY])
def test_only_one_whole_request_is_begun(data: bytes) -> None:
    plan = Plan()
    fast_path = FastPath(plan, GENERATION)
    assert offer(fast_path, HEAD + BODY) is None
    assert fast_path.begin(NOBODY, data) is None
    assert offer(fast_path, HEAD + BODY) in plan.begun


def test_the_application_is_asked_once_although_it_has_no_plan() -> None:
    plan_nothing = Mock(return_value=None)
    fast_path = FastPath(plan_nothing, GENERATION)
    assert [offer(fast_path, HEAD + BODY) for _ in range(4)] == [None] * 4
    plan_nothing.assert_called_once()


def test_another_generation_empties_it() -> None:
    plan, generation = Plan(), Mock(value=1)
    fast_path = FastPath(plan, generation)
    assert [offer(fast_path, HEAD + BODY) is None for _ in range(2)] == [True, False]
    generation.value = 2
    assert [offer(fast_path, HEAD + BODY) is None for _ in range(2)] == [True, False]
    assert len(plan.scopes) == 2


def test_few_heads_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HEADS", 4)
    fast_path = FastPath(Plan(), GENERATION)
    heads = [HEAD.replace(b"host: x", b"host: %d" % number) for number in range(50)]
    kept: list[int] = []
    for head in heads * 2:
        offer(fast_path, head + BODY)
        kept.append(len(fast_path._plans))
    assert max(kept) == 4
    assert offer(fast_path, heads[-1] + BODY)


@pytest.mark.parametrize(("length", "is_kept"), [(MAX_HEAD, True), (MAX_HEAD + 1, False), (MAX_HEAD * 20, False)])
def test_no_long_head_is_kept(length: int, is_kept: bool) -> None:
    fast_path = FastPath(Plan(), GENERATION)
    head = LINES + b"x: %b\r\n\r\n" % (b"y" * (length - len(HEAD) - 5))
    assert len(head) == length
    begun = [offer(fast_path, head + BODY) for _ in range(3)]
    assert [request is not None for request in begun] == [False, is_kept, is_kept]
    assert len(fast_path._plans) == is_kept


# What a connection does with fast requests.


def check(steps: Callable[[Peer, Plan], Awaitable[None]], client: float = 30, idle: float = 30) -> None:
    """Take `steps` on a new connection whose fast path has a plan for HEAD."""
    plan = Plan()
    fast_path = FastPath(plan, GENERATION)
    fast_path.learn(HEAD + BODY, {})

    async def take_steps() -> None:
        async with connected(Timeouts(client, idle), Peer(state={"fast_path": fast_path})) as peer:
            peer.connection.server_state.default_headers = [(b"date", b"today")]
            await steps(peer, plan)

    uvloop.run(take_steps())


async def begin(peer: Peer, plan: Plan, more: bytes = b"") -> Request:
    """Send a request, and `more` once it is begun."""
    peer.writer.write(HEAD + BODY)
    begun = len(plan.begun)
    await until(lambda: len(plan.begun) > begun)
    if more:
        peer.writer.write(more)
        await until(lambda: bool(peer.connection._parser.unparsed))
    return plan.begun[-1]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not happened():  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.002)


async def receive(peer: Peer, end: bytes = b"done\r\n0\r\n\r\n") -> bytes:
    async with asyncio.timeout(LIMIT_S):
        return await peer.reader.readuntil(end)


def test_each_request_gets_its_response() -> None:
    async def steps(peer: Peer, plan: Plan) -> None:
        for _ in range(2):
            (await begin(peer, plan)).answer()
            assert await receive(peer, b"fast") == ANSWER
        assert peer.connection.server_state.total_requests == 2

    check(steps)


@pytest.mark.parametrize("ends", ["respond", "parse_again"])
@pytest.mark.parametrize("early", [len(GET), 9, len(GET) + len(HEAD), len(GET) + len(HEAD + BODY)])
def test_what_comes_meanwhile_waits(ends: str, early: int) -> None:
    """Also when the fast path gives the request back and the application answers it."""

    async def steps(peer: Peer, plan: Plan) -> None:
        asked: list[str] = []
        meanwhile = GET + HEAD + BODY

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            asked.append(scope["method"])
            await peer.app(scope, receive, send)

        peer.connection._app = app
        request = await begin(peer, plan, meanwhile[:early])
        assert not peer.connection.flow.is_reading
        assert peer.connection.state is State.IDLE
        if ends == "respond":
            request.answer()
            assert await receive(peer, b"fast") == ANSWER
        else:
            request.client.parse_again(request.data)
        peer.may_respond.set()
        peer.writer.write(meanwhile[early:])
        expected = ["GET", "POST"] if ends == "respond" else ["POST", "GET", "POST"]
        received = b"".join([await receive(peer) for _ in expected])
        assert received.count(b"HTTP/1.1 200 OK") == len(expected)
        assert asked == expected
        assert peer.connection.flow.is_reading
        assert not peer.connection._cycles

    check(steps)


def test_a_request_is_fast_although_those_before_it_on_its_connection_were_not() -> None:
    async def steps(peer: Peer, plan: Plan) -> None:
        peer.may_respond.set()
        plan.refuses = True
        peer.writer.write(HEAD + BODY)
        await receive(peer)
        plan.refuses = False
        request = await begin(peer, plan)
        request.client.parse_again(request.data)
        assert peer.connection._cycles[0]._join_body() == BODY  # type: ignore[union-attr]
        await receive(peer)
        (await begin(peer, plan)).answer()
        assert await receive(peer, b"fast") == ANSWER

    check(steps)


def test_a_request_is_cancelled_when_its_client_is_gone() -> None:
    async def steps(peer: Peer, plan: Plan) -> None:
        request = await begin(peer, plan)
        peer.writer.close()
        await peer.reaches(State.CLOSED)
        assert request.is_cancelled
        assert not peer.connection._cycles

    check(steps)


def test_a_request_is_answered_at_a_stop_and_is_the_last_fast_one() -> None:
    async def steps(peer: Peer, plan: Plan) -> None:
        request = await begin(peer, plan)
        peer.connection.shutdown()
        request.answer()
        assert await peer.receive_all() == LAST_ANSWER

    async def idle(peer: Peer, plan: Plan) -> None:
        peer.may_respond.set()
        peer.connection.shutdown()
        peer.writer.write(HEAD + BODY)
        assert b"connection: close" in await peer.receive_all()
        assert not plan.begun

    check(steps)
    check(idle)


def test_no_timeout_ends_a_request_and_the_idle_time_begins_at_its_response() -> None:
    async def steps(peer: Peer, plan: Plan) -> None:
        request = await begin(peer, plan)
        await asyncio.sleep(0.3)
        request.answer()
        for _ in range(8):
            await asyncio.sleep(0.04)
            (await begin(peer, plan)).answer()
        assert await peer.receive_all() == ANSWER * 9

    check(steps, client=0.2, idle=0.2)


@pytest.mark.parametrize("before", [GET, HEAD[:9], HEAD, POST, HEAD + BODY])
def test_a_request_within_or_behind_another_is_not_fast(before: bytes) -> None:
    async def steps(peer: Peer, plan: Plan) -> None:
        peer.writer.write(before)
        await until(lambda: bool(peer.connection._cycles) or peer.connection.state is not State.IDLE)
        begun = len(plan.begun)
        peer.writer.write(HEAD + BODY)
        await asyncio.sleep(0.01)
        assert begun == len(plan.begun) == (before == HEAD + BODY)

    check(steps)


def test_a_request_is_not_fast_while_its_client_does_not_read() -> None:
    async def steps(peer: Peer, plan: Plan) -> None:
        peer.connection.pause_writing()
        peer.writer.write(HEAD + BODY)
        await asyncio.sleep(0.01)
        assert not plan.begun
        peer.connection.resume_writing()
        peer.may_respond.set()
        await receive(peer)
        await begin(peer, plan)

    check(steps)
