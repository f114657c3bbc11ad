"""A request and its response on the wire, as an ASGI application receives and sends them."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope
from uvicorn.server import ServerState

from service.errors import MEDIA_TYPE, InternalError, problem_document
from service.http.flow_control import FlowControl

logger = logging.getLogger("vae-service")

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
WITHOUT_BODY = (204, 304)
PIECE_OVERHEAD = 60
"""Bytes of memory that a piece of a body takes beside its content."""
MIN_UNCOPIED = 2**16
"""Bytes from which on a body is written by itself; joining a smaller one with its head is faster."""

Fields = Iterable[tuple[bytes, bytes]]


@lru_cache(maxsize=2)
def header_lines(fields: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Return header fields as lines."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


class Owner(Protocol):
    """The connection of a cycle."""

    transport: asyncio.Transport
    flow: FlowControl
    server_state: ServerState

    def on_body_taken(self) -> None:
        """The application has taken some of the body, which is incomplete."""

    def on_response_end(self) -> None:
        """No more of the response will be written."""


class Cycle:
    """One request of a connection and its response (RFC 9112)."""

    __slots__ = (
        "_all_taken",
        "_body",
        "_continue_sent",
        "_ended",
        "_more_received",
        "_owner",
        "_remaining",
        "_start",
        "_task",
        "buffered",
        "complete",
        "keep_alive",
        "scope",
        "started",
    )

    def __init__(self, owner: Owner, scope: Scope, *, keep_alive: bool) -> None:
        """`keep_alive`: whether the connection may stay open after the response."""
        self.scope = scope
        self.keep_alive = keep_alive
        self.complete = False
        """Whether all of the request was received."""
        self.started = False
        """Whether some of the response was written."""
        self.buffered = 0
        """Bytes of memory for what was received of the body and not taken yet."""
        self._owner = owner
        self._body: list[bytes] = []
        self._all_taken = False
        self._more_received: asyncio.Future[None] | None = None  # awaited by `receive`
        self._continue_sent = False
        self._start: Message = {}
        self._remaining: int | None = None  # bytes of the response's body to write; None where it is chunked
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_charged(self) -> bool:
        """Whether the response is charged to the memory budget: the application tells it in the scope."""
        return "charged" in self.scope

    def start(self, app: ASGIApp) -> None:
        """Have `app` answer, in a task."""
        self._task = asyncio.get_running_loop().create_task(self.run(app))

    def cancel(self) -> None:
        """Cancel the task, if there is one."""
        task, self._task = self._task, None  # the exception of a cancelled task refers to this object: break the cycle
        if task is not None:
            task.cancel()

    async def run(self, app: ASGIApp) -> None:
        """Have `app` answer. If it fails, the response is a 500, or the connection is closed within the response."""
        if self.complete:
            self.scope["whole_body"] = self._join_body()  # an extension: saves the application a call of `receive`
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            name = self._request_id.decode()
            logger.exception("The service failed at %s %r, %s.", self.scope["method"], self.scope["raw_path"], name)
            if not self.started:
                await self._send_500()
        finally:
            if not self._ended:
                self.keep_alive = False
                self._end()

    def feed(self, body: bytes) -> None:
        """Receive some of the body."""
        if not self._ended:
            self._body.append(body)
            self.buffered += len(body) + PIECE_OVERHEAD
            if self._more_received is not None:
                self._wake()

    def finish(self) -> None:
        """Mark the request as complete."""
        self.complete = True
        if self._more_received is not None:
            self._wake()

    async def receive(self) -> Message:
        """Return what was received of the body. After the last of it, wait to be cancelled, when the client is gone."""
        while not self._body and (self._all_taken or not self.complete):
            self._send_continue()
            self._more_received = asyncio.get_running_loop().create_future()
            await self._more_received
        body = self._join_body()
        self._body.clear()
        self.buffered = 0
        self._all_taken = self.complete
        if not self.complete:
            self._owner.on_body_taken()
        return {"type": "http.request", "body": body, "more_body": not self.complete}

    async def send(self, message: Message) -> None:
        """Write some of the response: its head and the first of its body in one piece."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        body: bytes = message.get("body", b"")
        last = not message.get("more_body", False)
        owner = self._owner
        if not owner.flow.writable.is_set():
            await owner.flow.writable.wait()
        if self.started:
            owner.transport.write(self._frame(body, last))
        else:
            head = self._head(self._start["status"], self._start["headers"])
            self.started = True
            frame = self._frame(body, last)
            if len(frame) < MIN_UNCOPIED:
                owner.transport.write(head + frame)
            else:
                owner.transport.writelines((head, frame))
        if last:
            if self._remaining:
                self.keep_alive = False  # the body is shorter than its content-length: the client waits for the rest
            self._end()

    def _head(self, status: int, fields: Fields) -> bytes:
        """Return the head of the response, and note how its body is framed."""
        for name, value in fields:
            if name == b"content-length":
                self._remaining = int(value)
                break
        fields = [*self._owner.server_state.default_headers, *fields]
        if not self.complete:
            self.keep_alive = False
        if not self.keep_alive:
            fields.append((b"connection", b"close"))
        if self.scope["method"] == "HEAD" or status in WITHOUT_BODY:
            self._remaining = 0
        elif self._remaining is None and self.scope["http_version"] == "1.0":
            self._remaining = sys.maxsize  # it has no chunks: the body ends with the connection (RFC 9112, section 6.3)
        elif self._remaining is None:
            fields.append((b"transfer-encoding", b"chunked"))
        lines = b"\r\n".join(map(b": ".join, fields))
        if not lines.count(b"\r") == lines.count(b"\n") == len(fields) - 1:
            raise ValueError("A header field has a line break in it.")
        return b"%b%b\r\n\r\n" % (STATUS_LINES[status], lines)

    def _frame(self, body: bytes, last: bool) -> bytes:
        """Return a piece of the response's body as it goes over the wire."""
        if self._remaining is not None:
            body = body[: self._remaining] if len(body) > self._remaining else body
            self._remaining -= len(body)
            return body
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk + b"0\r\n\r\n" if last else chunk

    def _join_body(self) -> bytes:
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    def _end(self) -> None:
        self._ended = True
        self._owner.on_response_end()

    @property
    def _request_id(self) -> bytes:
        """The request's id, if the application gave it one."""
        name: bytes = self.scope.get("request_id", b"-")
        return name

    async def _send_500(self) -> None:
        document = problem_document(InternalError())
        fields = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(document))]
        fields.append((b"x-request-id", self._request_id))
        await self.send({"type": "http.response.start", "status": InternalError.status, "headers": fields})
        await self.send({"type": "http.response.body", "body": document})

    def _send_continue(self) -> None:
        """Send status 100, once, to a client that waits for it before it sends the body (RFC 9110, 10.1.1)."""
        expected = (value.lower() for name, value in self.scope["headers"] if name == b"expect")
        if not (self._continue_sent or self.complete) and b"100-continue" in expected:
            self._owner.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._continue_sent = True

    def _wake(self) -> None:
        if self._more_received is not None and not self._more_received.done():
            self._more_received.set_result(None)
