"""HTTP/1.1 with one caller: bytes → requests for the application, with a limit and a time for each of their parts."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast
from urllib.parse import unquote

import httptools
from starlette.types import Scope
from uvicorn import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from service.errors import MEDIA_TYPE, HeadTooLarge, RequestTimeout, ServiceError, UnreadableBody, problem_document
from service.http.cycle import STATUS_LINES, Cycle
from service.http.inbox import Inbox
from service.http.outbox import Outbox
from service.http.request_head import read_head
from service.memory_budget import UNCOUNTED, MemoryBudget

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ

HEAD_LIMIT = 64 * 2**10
"""Bytes of a request's line and header fields, and of what else is none of its body: trailers, a chunk's extensions."""
FIELD_LIMIT = 100
"""Header fields of a request."""
BODY_BUFFER = 256 * 2**10
"""Bytes of a body that may wait for the application; then the caller has to."""
LINGER_S = 2
"""After an answer that did not wait for the whole request: a caller who still sends would lose it at a sudden end."""
LINGER_BYTES = 2**24
"""That are read meanwhile, and thrown away."""
SLOWEST_READER = 2**14
"""Bytes a second of an answer that a client must acknowledge, on average."""
READER_CREDIT = 4
"""Largest credit that a client gets for reading faster, in multiples of its timeout. A client's kernel acknowledges in
steps of up to 400 kB; at the slowest rate these are 25 s apart."""
HEAD_PIECE, CHUNKED_PIECE = 2**10, 2**12
"""Bytes parsed at a time where a request may begin, and in a chunked body, which may end anywhere. They limit how many
pipelined requests are parsed before the first of them is answered, to some dozens."""
PIECES_IN_A_TURN = 2
"""Pieces parsed in one turn of the event loop. A piece of 4 kB can hold 700 chunks of one byte each."""
ON_ITS_WAY_S = 0.3
"""In which a request reaches a connection that is to be closed."""
NEVER = float("inf")
RENEWED = 0.0
"""A time that begins anew with what has come; it is set once all of that is parsed."""
TCP_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
"""Linux's: how long what was sent may remain untaken (RFC 5482)."""
ASGI = {"version": "3.0", "spec_version": "2.4"}


@dataclass(frozen=True)
class Timeouts:
    """Seconds that a caller is waited for."""

    caller: float
    """For the head of a request, for more of its body, for taking an answer."""
    idle: float
    """For the next request."""
    on_refusal: Callable[[ServiceError, Scope], bytes] = lambda _, __: b"-"
    """Told of each refusal of the connection, and of the request that it was about; names it."""


class Connection(asyncio.Protocol):
    """What uvicorn makes for each caller that connects.

    The requests of one connection are answered one after the other. One that breaks off takes its requests with it.
    """

    __slots__ = (  # hundreds of these are used in turn, and fall out of the processor's caches between
        "__weakref__",
        "_address",
        "_answer_is_charged",
        "_app",
        "_body_left",
        "_charged",
        "_client",
        "_closing",
        "_cycles",
        "_declining",
        "_due",
        "_error",
        "_fields",
        "_in_head",
        "_inbox",
        "_incoming",
        "_last",
        "_loop",
        "_memory",
        "_next",
        "_outbox",
        "_overhead",
        "_parsed",
        "_parser",
        "_patience",
        "_reads",
        "_refusal",
        "_server",
        "_target",
        "_task",
        "_timer",
        "_unparsed",
        "_unread",
        "_unsent",
        "_writable",
        "_write_due",
        "transport",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """As uvicorn does it; the application's lifespan has left its Timeouts in `app_state`."""
        self._app = config.loaded_app
        self._server = server_state
        self._patience: Timeouts = app_state["patience"]
        self._loop = _loop or asyncio.get_running_loop()
        self._inbox: Inbox = app_state.setdefault("inbox", Inbox(self._loop))  # all connections'
        self._outbox: Outbox = app_state.setdefault("outbox", Outbox())
        self._memory: MemoryBudget = app_state["memory"]
        self._parser = httptools.HttpRequestParser(self)
        self._writable = asyncio.Event()
        self._writable.set()
        self._cycles: list[Cycle] = []  # the first is being answered
        self._incoming: Cycle | None = None  # the one whose body is coming
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None  # what the task waits for
        self._unparsed = b""  # received, and not parsed to its end
        self._parsed = 0  # bytes of `_unparsed` that are parsed
        self._error: ServiceError | None = None  # sent once the complete requests before it are answered
        self._refusal: ServiceError | None = None  # raised by a callback of the parser
        self._charged = 0  # bytes charged for what is held while reading is paused
        self._unsent = 0  # bytes charged for an answer that the client has not read yet
        self._answer_is_charged = False  # the last one, while the client reads it
        self._body_left: int | None = None  # of the request whose body is coming; None where it comes in chunks
        self._in_head = False
        self._overhead = 0  # bytes that came since the last of a body
        self._declining = False
        self._closing = False
        self._last = False  # the next answer ends the connection
        self._reads = True
        self._due = NEVER  # when the caller has to have done something
        self._write_due = NEVER
        self._unread = 0  # bytes that the caller had not taken when last looked at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)
        if TCP_USER_TIMEOUT is not None:  # what the system has taken in is out of this class's sight
            milliseconds = int(1000 * READER_CREDIT * self._patience.caller)
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, milliseconds)
        self._client = get_remote_addr(self.transport)
        self._address = get_local_addr(self.transport)
        self._server.connections.add(self)  # type: ignore[arg-type] # it names uvicorn's own protocols alone
        self._arm_timeout(self._patience.caller)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop what is being done for the caller: they are gone. So is this object then, without the collector."""
        self._server.connections.discard(self)
        self._closing = True
        self._memory.adjust(-self._charged - self._unsent)
        self._charged = self._unsent = 0
        self._timer.cancel()
        self._abandon()
        self._task = self._incoming = None
        del self._parser

    def data_received(self, data: bytes) -> None:
        """Read what came, in its turn where it begins a request."""
        if self._closing:
            self._overhead += len(data)
            if self._overhead > LINGER_BYTES:
                self.transport.abort()
        elif self._unparsed:
            self._unparsed = self._unparsed[self._parsed :] + data
            self._parsed = 0
            self._update_backpressure()
        else:
            self._unparsed = data
            self._inbox.enter(self._read)

    def _read(self) -> None:
        """Parse what came, until a request has to wait; the parser calls the on_… methods."""
        data, start = self._unparsed, self._parsed
        size = len(data)
        pieces = 0
        while start < size and not (self._closing or (self._cycles and self._is_full())):
            if self._incoming is None:
                stop = start + HEAD_PIECE
            else:
                stop = start + (CHUNKED_PIECE if self._body_left is None else self._body_left)
            self._parsed = stop = min(stop, size)
            self._overhead += stop - start
            try:
                self._parse(data if stop - start == size else memoryview(data)[start:stop])
            except httptools.HttpParserError as error:
                ours = self._refusal if isinstance(error, httptools.HttpParserCallbackError) else None
                self._fail(ours or UnreadableBody("This is not HTTP/1.1."))
                break
            start = stop
            pieces += 1
            if pieces == PIECES_IN_A_TURN and start < size:
                self._loop.call_soon(self._inbox.enter, self._go_on_reading)
                break
            too_many = self._in_head and len(self._fields) > FIELD_LIMIT
            if too_many or (self._overhead > HEAD_LIMIT and (self._in_head or self._incoming)):
                self._fail(_head_too_large())
                break
        if self._parsed >= size:
            self._unparsed, self._parsed = b"", 0
        if self._due == RENEWED:
            self._arm_timeout(self._patience.caller)
        if self._unparsed or not self._reads:
            self._update_backpressure()

    def _is_full(self) -> bool:
        """Return whether parsing has to wait for an answer, or for the body to be read."""
        if self._incoming is not None and self._incoming.buffered > BODY_BUFFER:
            return True
        return len(self._cycles) > 1 or self._error is not None

    def pause_writing(self) -> None:
        """The caller reads too slowly."""
        self._writable.clear()
        if self._cycles and self._cycles[0].started:
            self._answer_is_charged = self._cycles[0].scope.get("charged", False)
        if self._answer_is_charged:  # connections share the page, the documentation and the test set's latents
            self._unsent = self.transport.get_write_buffer_size()
            self._memory.adjust(self._unsent)
        self._unread = self._untaken()
        self._write_due = self._loop.time() + self._patience.caller

    def resume_writing(self) -> None:
        """The caller has caught up."""
        self._writable.set()
        self._memory.adjust(-self._unsent)
        self._unsent = 0
        self._write_due = NEVER

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._declining:
            return
        self._in_head = True
        self._overhead = 0
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._due = RENEWED

    def on_url(self, url: bytes) -> None:
        """Some of the request's target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; one behind the body (RFC 9110, section 6.5) is none of the request's."""
        if self._in_head:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """A request can be answered."""
        if self._declining:
            self._declining = False
            return
        self._in_head = False
        target, parser, fields = self._target, self._parser, self._fields
        if len(fields) > FIELD_LIMIT or (
            self._overhead + CHUNKED_PIECE > HEAD_LIMIT  # with what came of it in its first piece
            and len(target) + sum(map(len, chain.from_iterable(fields))) + 4 * len(fields) > HEAD_LIMIT
        ):
            self._refusal = _head_too_large()
            raise self._refusal
        if target.startswith(b"/"):
            raw_path, _, query = target.partition(b"?")
        else:
            url = httptools.parse_url(target)
            raw_path, query = url.path or b"/", url.query or b""
        path = raw_path.decode("ascii")
        version = parser.get_http_version()
        try:
            by_name = read_head(version, fields)
        except ServiceError as error:
            self._refusal = error
            raise
        length = by_name.get(b"content-length")
        self._body_left = None if length is None else int(length)
        scope: Scope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "server": self._address,
            "client": self._client,
            "scheme": "http",
            "method": parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": fields,
            "fields": by_name,  # for those who know
        }
        cycle = self._incoming = Cycle(
            scope,
            self.transport,
            self._writable,
            self._outbox,
            keep_alive=version == "1.1" and parser.should_keep_alive() and not self._last,
            common_fields=self._server.default_headers,
            on_receive=self._read_soon,
            on_end=self._end,
        )
        self._cycles.append(cycle)
        if len(self._cycles) == 1:
            self._go_on()

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        self._overhead = 0
        if self._body_left is not None:
            self._body_left -= len(body)
        if self._incoming:
            self._incoming.feed(body)
            if self._reads:
                self._due = RENEWED

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._incoming and not self._parser.should_upgrade():
            self._incoming.finish()
            self._incoming = None
            self._due = NEVER

    def shutdown(self) -> None:
        """Close after the requests that came, or that are on their way, are answered."""
        if self._cycles:
            self._cycles[-1].keep_alive = False
        if not self._last:
            self._last = True
            self._loop.call_later(ON_ITS_WAY_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not (self._cycles or self._in_head or self._unparsed):
            self._closing = True
            self._outbox.close(self.transport)

    def _watch(self) -> None:
        """Now and then: hang up where the caller keeps the service waiting."""
        self._timer = self._loop.call_later(min(self._patience.caller, self._patience.idle) / 4, self._watch)
        now = self._loop.time()
        if self._write_due < NEVER:
            left = self._untaken()
            credit = self._write_due + (self._unread - left) / SLOWEST_READER
            self._unread, self._write_due = left, min(credit, now + READER_CREDIT * self._patience.caller)
        if now > self._write_due:
            self.transport.abort()
        elif now > self._due and (self._closing or not (self._unparsed or (self._cycles and self._cycles[0].whole))):
            if self._closing or not (self._in_head or self._incoming):
                self._outbox.close(self.transport)
            else:
                part = "head" if self._in_head else "body"
                self._refuse(
                    RequestTimeout(f"Nothing more of the request's {part} came in {self._patience.caller:g} s.")
                )

    def _untaken(self) -> int:
        """Bytes that the client has not acknowledged."""
        waiting = self.transport.get_write_buffer_size()
        if sys.platform == "linux":  # tcp(7), where it is called SIOCOUTQ
            sent = ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
            waiting += int.from_bytes(sent, sys.byteorder)
        return waiting

    def _go_on(self) -> None:
        if self._task is None:
            self._task = self._loop.create_task(self._answer())
        elif self._next is not None and not self._next.done():
            self._next.set_result(None)

    async def _answer(self) -> None:
        """All requests, one after the other: a task for each would take microseconds to begin."""
        while not self._closing:
            if self._cycles:
                await self._cycles[0].run(self._app)
                if self._cycles:  # it pipelines: others have a turn between two of its answers
                    await asyncio.sleep(0)
            else:
                self._next = self._loop.create_future()
                await self._next

    def _end(self) -> None:
        """The first cycle has ended."""
        cycle = self._cycles.pop(0)
        self._answer_is_charged = cycle.scope.get("charged", False)
        self._server.total_requests += 1
        if self._closing:
            return
        if not cycle.whole:
            self._linger()
        elif not cycle.keep_alive and (self._unparsed or not self._reads):
            self._linger()  # closed with something unread, the system would reset the connection
        elif not cycle.keep_alive:
            self._closing = True
            self._outbox.close(self.transport)
        elif self._unparsed or not self._reads:
            self._go_on_reading()
        elif not self._cycles:
            self._arm_timeout(self._patience.caller if self._in_head else self._patience.idle)

    def _arm_timeout(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds

    def _read_soon(self) -> None:
        """Some of the body was taken. Not at once: a refusal would cancel the task that has taken it."""
        self._loop.call_soon(self._go_on_reading)

    def _go_on_reading(self) -> None:
        """Something was answered, or taken: parse more of what came, and let more come."""
        if self._closing:
            return
        if self._error is not None and not self._cycles:
            self._refuse(self._error)
        elif self._unparsed:
            self._read()
        else:
            self._update_backpressure()

    def _update_backpressure(self) -> None:
        """Read as long as there is someone to take it; what is held meanwhile is charged to the memory budget."""
        waiting = bool(self._unparsed) or self._is_full()
        if self._reads == (not waiting) or self.transport.is_closing():
            return
        self._reads = not waiting
        if waiting:
            self.transport.pause_reading()
            self._due = NEVER
            held = len(self._unparsed) + sum(cycle.buffered for cycle in self._cycles)
            if held > UNCOUNTED:
                try:
                    self._memory.reserve(held)
                    self._charged = held
                except ServiceError as error:
                    self._fail(error)
        else:
            self._memory.adjust(-self._charged)
            self._charged = 0
            self.transport.resume_reading()
            self._arm_timeout(self._patience.caller)

    def _fail(self, error: ServiceError) -> None:
        """Take nothing more; refuse the request that was coming once those before it are answered."""
        self._error = error
        self._unparsed, self._parsed = b"", 0
        if self._incoming is not None and self._incoming is not self._cycles[0]:
            self._cycles.pop()
            self._incoming = None
        if self._incoming is not None or not self._cycles:
            self._refuse(error)
        else:
            self._update_backpressure()

    def _parse(self, data: bytes | memoryview) -> None:
        """Feed the parser. Where the caller offers another protocol it leaves the body to that one: begin anew there.

        Java's client offers HTTP/2 with its first request.
        """
        while data:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                framing = [field for field in self._fields if field[0] in (b"content-length", b"transfer-encoding")]
                head = b"".join(b"%b: %b\r\n" % field for field in framing)
                data = b"POST / HTTP/1.1\r\n%b\r\n%b" % (head, bytes(data[upgrade.args[0] :]))
                self._declining = True
                self._parser = httptools.HttpRequestParser(self)

    def _refuse(self, error: ServiceError) -> None:
        """Say what is wrong with the connection, unless an answer is under way, and hang up."""
        cycle = self._cycles[0] if self._cycles else None
        scope = cycle.scope if cycle else {"method": "-", "raw_path": b"-", "client": self._client, "headers": []}
        name = self._patience.on_refusal(error, scope)
        if cycle and cycle.started:
            self._closing = True
            self._outbox.close(self.transport)
            return
        body = problem_document(error)
        fields = b"content-type: %b\r\ncontent-length: %d\r\n" % (MEDIA_TYPE.encode(), len(body))
        fields += b"x-request-id: %b\r\nconnection: close\r\n\r\n" % name
        self._outbox.write(self.transport, STATUS_LINES[error.status], fields, body)
        self._abandon()
        self._linger()

    def _linger(self) -> None:
        """Take nothing more, but let the caller read what was written."""
        self._closing = True
        self._incoming = None
        self._overhead = 0
        self._unparsed, self._parsed = b"", 0
        self._memory.adjust(-self._charged)
        self._charged = 0
        if not self._reads:
            self.transport.resume_reading()
        self._arm_timeout(LINGER_S)
        self._outbox.end(self.transport)

    def _abandon(self) -> None:
        if self._task:
            self._task.cancel()


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"The request's line and header fields are longer than the {HEAD_LIMIT} bytes, or more than the {FIELD_LIMIT} "
        "fields, that are taken."
    )
