"""The fast path: answers small requests that were received whole, whose head is known, without parser and ASGI."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

from starlette.types import ASGIApp, Scope

MAX_HEAD = 2**12
"""Bytes of the longest head (request line and header fields) of a request that is answered here."""
MAX_HEADS = 512
"""Heads that are kept. Clients send the same one again and again, but for the Content-Length and the VARYING fields."""
VARYING = re.compile(
    rb"(\r\n(?:x-request-id|trace(?:parent|state)|baggage|b3|x-b3-[a-z]+|sentry-trace|x-datadog-[a-z-]+|x-amzn-trace-id"
    rb"|x-cloud-trace-context|x-forwarded-for|x-real-ip|idempotency-key):)[ \t]*([^\x00-\x08\n-\x1f\x7f]*)",
    re.IGNORECASE,
)
"""Fields that proxies and tracing add and whose values differ from request to request. They do not affect the response,
except that x-request-id is echoed; it and traceparent are logged.

Plans are looked up by the head without these values. A value ends before a control character, which stays in the head:
no such head has a plan, so the parser sees it and refuses it.
"""
END_OF_HEAD = b"\r\n\r\n"
NO_FIELDS: Mapping[bytes, bytes] = {}


class Client(Protocol):
    """The connection of a fast request."""

    address: tuple[str, int] | None

    def respond(self, fields: bytes, body: bytes) -> None:
        """Write a whole response, with status 200; `fields` are lines of its head."""

    def parse_again(self, data: bytes) -> None:
        """Answer the request as any other; `data` is all of it."""


class FastRequest:
    """A request on the fast path. Its connection treats it as a Cycle that was received whole."""

    __slots__ = ()
    complete: ClassVar = True
    buffered: ClassVar = 0
    started: ClassVar = False
    is_charged: ClassVar = False
    scope: ClassVar[Scope] = {}
    keep_alive: bool

    def start(self, app: ASGIApp) -> None:
        """Do nothing: the request has already started."""

    def cancel(self) -> None:
        """Drop the request: its client has disconnected."""
        raise NotImplementedError


class Plan(Protocol):
    """How the application answers the requests with one head."""

    @property
    def content_length(self) -> int:
        """Bytes of the body."""

    def begin(self, client: Client, data: bytes, body: bytes, varying: Mapping[bytes, bytes]) -> FastRequest | None:
        """Begin to answer the request `data`, or return None: it is then answered as any other.

        `varying` has the VARYING fields of its head by lower-case name.
        """


class Generation(Protocol):
    """A number that changes when all plans become invalid."""

    value: int


class FastPath:
    """Finds the plan of a request by its head; all connections share it."""

    def __init__(self, plan: Callable[[Scope], Plan | None], generation: Generation) -> None:
        """`plan` returns None for a head whose requests are answered as any other."""
        self._plan = plan
        self._generation = generation
        self._planned_for = generation.value
        self._plans: dict[bytes, Plan | None] = {}

    def begin(self, client: Client, data: bytes) -> FastRequest | None:
        """Begin to answer `data` if it is a whole request with a plan."""
        if self._generation.value != self._planned_for:
            self.forget()
        end = _end_of_head(data)
        plan, varying = self._plans.get(data[:end]), NO_FIELDS
        if plan is None:
            head, varying = _cut(data[:end])
            plan = self._plans.get(head)
        if plan is None or plan.content_length != len(data) - end:
            return None
        return plan.begin(client, data, data[end:], varying)

    def forget(self) -> None:
        """Forget all plans."""
        self._planned_for = self._generation.value
        self._plans.clear()

    def learn(self, data: bytes, scope: Scope) -> None:
        """Plan for the head of `data`, which was parsed as one whole request."""
        end = _end_of_head(data)
        head, _ = _cut(data[:end])
        if head in self._plans or not end:
            return
        if len(self._plans) == MAX_HEADS:
            self._plans.clear()
        plan = self._plan(scope)
        is_whole = plan is not None and plan.content_length == len(data) - end  # else the parser saw another end
        self._plans[head] = plan if is_whole else None


def _end_of_head(data: bytes) -> int:
    """Return where the body begins, or 0 where it is not known."""
    end = data.find(END_OF_HEAD, 0, MAX_HEAD) if data.startswith(b"POST ") else -1
    return end + len(END_OF_HEAD) if end > 0 else 0


def _cut(head: bytes) -> tuple[bytes, Mapping[bytes, bytes]]:
    """Return a head without the values of its VARYING fields, and these; the whole head where one is repeated."""
    pieces = VARYING.split(head)
    names, values = pieces[1::3], pieces[2::3]
    varying = {name[2:-1].lower(): value for name, value in zip(names, values, strict=True)}
    if len(varying) < len(values):
        return head, NO_FIELDS
    del pieces[2::3]
    return b"".join(pieces), varying
