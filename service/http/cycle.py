"""A request and its answer on the wire, as an ASGI application receives and sends them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Scope

from service.errors import MEDIA_TYPE, InternalError, problem_document
from service.http.outbox import Outbox

logger = logging.getLogger("vae-service")

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
WITHOUT_BODY = (204, 304)
PIECE_BYTES = 60
"""That a piece of a body takes beside its own bytes."""
UNCOPIED = 2**16
"""Bytes from which on a body goes out as it lies, at once; less is copied behind its head, and goes with others'."""

Fields = Iterable[tuple[bytes, bytes]]


class Cycle:
    """One request of a connection and its answer (RFC 9112)."""

    __slots__ = (
        "_all_taken",
        "_body",
        "_common_fields",
        "_ended",
        "_head",
        "_invited",
        "_left",
        "_news",
        "_on_end",
        "_on_receive",
        "_outbox",
        "_transport",
        "_writable",
        "buffered",
        "keep_alive",
        "scope",
        "started",
        "whole",
    )

    def __init__(
        self,
        scope: Scope,
        transport: asyncio.Transport,
        writable: asyncio.Event,
        outbox: Outbox,
        *,
        keep_alive: bool,
        common_fields: Fields,
        on_receive: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        """`on_receive` is called when some of the body was taken, `on_end` when nothing more will be written."""
        self.scope = scope
        self.keep_alive = keep_alive
        self.whole = False
        """Has all of the request come?"""
        self.started = False
        """Has some of the answer been written?"""
        self.buffered = 0
        """Bytes of the body that came and were not taken yet."""
        self._transport = transport
        self._writable = writable
        self._outbox = outbox
        self._invited = False
        self._common_fields = common_fields
        self._on_receive = on_receive
        self._on_end = on_end
        self._body: list[bytes] = []
        self._all_taken = False
        self._news: asyncio.Future[None] | None = None
        self._head: Message = {}
        self._left: int | None = None  # bytes of the answer's body still to come; None where they go in chunks
        self._ended = False

    async def run(self, app: ASGIApp) -> None:
        """Have `app` answer; what it fails to answer is a 500, or a connection that breaks off."""
        if self.whole:
            self.scope["whole_body"] = self._so_far()  # for those who know: `receive` gives it too
        self._outbox.answering += 1
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            name = self._request_id.decode()
            logger.exception("The service failed at %s %r, %s.", self.scope["method"], self.scope["raw_path"], name)
            if not self.started:
                await self._send_500()
        finally:
            self._outbox.answering -= 1
            if not self._ended:
                self.keep_alive = False
                self._end()

    def feed(self, body: bytes) -> None:
        """Take in some of the body."""
        if not self._ended:
            self._body.append(body)
            self.buffered += len(body) + PIECE_BYTES
            self._wake()

    def finish(self) -> None:
        """Know that the request is whole."""
        self.whole = True
        self._wake()

    async def receive(self) -> Message:
        """What came of the body. After the last of it this waits until the caller is gone, and is cancelled."""
        while not self._body and (self._all_taken or not self.whole):
            self._send_continue()
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        body = self._so_far()
        self._body.clear()
        self.buffered = 0
        more = not self.whole
        self._all_taken = not more
        if more:
            self._on_receive()
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(self, message: Message) -> None:
        """Write some of the answer: its head with the first of its body, as one piece."""
        if message["type"] == "http.response.start":
            self._head = message
            return
        body: bytes = message.get("body", b"")
        last = not message.get("more_body", False)
        if not self._writable.is_set():
            await self._writable.wait()
        if self.started:
            self._outbox.write(self._transport, self._frame(body, last))
        else:
            head = self._open(self._head["status"], self._head["headers"])
            self.started = True
            frame = self._frame(body, last)
            if len(frame) < UNCOPIED:
                self._outbox.post(self._transport, head + frame)
            else:
                self._outbox.write(self._transport, head, frame)
        if last:
            if self._left:
                self.keep_alive = False  # the caller waits for more than there is
            self._end()

    def _open(self, status: int, fields: Fields) -> bytes:
        """The head of the answer."""
        for name, value in fields:
            if name == b"content-length":
                self._left = int(value)
                break
        fields = [*self._common_fields, *fields]
        if not self.whole:
            self.keep_alive = False
        if not self.keep_alive:
            fields.append((b"connection", b"close"))
        if self.scope["method"] == "HEAD" or status in WITHOUT_BODY:
            self._left = 0
        elif self._left is None:
            fields.append((b"transfer-encoding", b"chunked"))
        lines = b"\r\n".join(map(b": ".join, fields))
        if not lines.count(b"\r") == lines.count(b"\n") == len(fields) - 1:
            raise ValueError("A header field has a line break in it.")
        return b"%b%b\r\n\r\n" % (STATUS_LINES[status], lines)

    def _frame(self, body: bytes, last: bool) -> bytes:
        """A piece of the body as it goes over the wire."""
        if self._left is not None:
            body = body[: self._left] if len(body) > self._left else body
            self._left -= len(body)
            return body
        piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return piece + b"0\r\n\r\n" if last else piece

    def _so_far(self) -> bytes:
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    def _end(self) -> None:
        self._ended = True
        self._on_end()

    @property
    def _request_id(self) -> bytes:
        """The request's id, where the application gave it one."""
        name: bytes = self.scope.get("request_id", b"-")
        return name

    async def _send_500(self) -> None:
        document = problem_document(InternalError())
        fields = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(document))]
        fields.append((b"x-request-id", self._request_id))
        await self.send({"type": "http.response.start", "status": InternalError.status, "headers": fields})
        await self.send({"type": "http.response.body", "body": document})

    def _send_continue(self) -> None:
        """Have the caller send the body who waits to be told (RFC 9110, section 10.1.1)."""
        expected = (value.lower() for name, value in self.scope["headers"] if name == b"expect")
        if not (self._invited or self.whole) and b"100-continue" in expected:
            self._outbox.write(self._transport, b"HTTP/1.1 100 Continue\r\n\r\n")
        self._invited = True

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
