"""HTTP/1.1 with one client: receives requests, has the application answer them, and limits the time that they take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from starlette.types import Scope
from uvicorn import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from service.errors import MEDIA_TYPE, RequestTimeout, ServiceError, problem_document
from service.http.cycle import STATUS_LINES, Cycle, header_lines
from service.http.fast_path import FastPath, FastRequest
from service.http.flow_control import FlowControl
from service.http.inbox import Inbox
from service.http.request_parser import RequestParser
from service.http.state import BODY, CLOSED, FAILED, HEAD, IDLE, LINGERING, OPEN
from service.http.timeouts import Timeouts
from service.memory_budget import MemoryBudget

BODY_BUFFER = 256 * 2**10
"""Bytes of a body that may wait for the application; with more, reading is paused."""
LINGER_S = 2
"""Seconds to keep reading after an early response: closing at once sends RST and can destroy the response."""
LINGER_BYTES = 2**24
"""Bytes that are read and discarded meanwhile."""
PIECES_IN_A_TURN = 2
"""Pieces parsed in one turn of the event loop. A piece of 4 kB can hold 700 chunks of one byte each."""
DRAIN_DELAY_S = 0.3
"""Seconds before an idle connection is closed at a stop: a request may be on its way."""


class Connection(asyncio.Protocol):
    """The connection of one client, as uvicorn makes it. Its requests are answered in order, one at a time.

    `state` is what it receives. Independently, requests received before may still be answered: those of `_cycles`.

    ========== ==================================================================== =========
    State      Event                                                                New state
    ========== ==================================================================== =========
    IDLE       a request begins                                                     HEAD
    HEAD       the head is complete; the request is queued                          BODY
    BODY       the body is complete                                                 IDLE
    (receives) an error in what is received, while earlier requests are answered    FAILED
    (receives) an error in what is received, and nothing else to answer: it is sent LINGERING
    FAILED     the earlier requests are answered: the error is sent                 LINGERING
    HEAD, BODY Timeouts.client without the rest of it: status 408 is sent           LINGERING
    (open)     the last response ends, with the request incomplete or more unparsed LINGERING
    (open)     the last response ends, and all that was received is parsed          CLOSED
    BODY       an error or a timeout after the response has begun                   CLOSED
    IDLE       Timeouts.idle, or DRAIN_DELAY_S after `shutdown`, without a request  CLOSED
    LINGERING  LINGER_S or LINGER_BYTES                                             CLOSED
    any        the client closes the connection, or reads a response too slowly     CLOSED
    ========== ==================================================================== =========

    (receives) is IDLE, HEAD or BODY; (open) is these or FAILED. A response is the last one if its request or
    `shutdown` asks for that, or if it ends before its request is complete. While reading is paused, which it is in
    FAILED, a client's close is not seen.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """uvicorn's signature; the application's lifespan puts `timeouts` and `memory` into `app_state`.

        It may also put there `fast_path`, and `record_refusal`: it is given each error that the connection itself
        sends, and the scope of its request, and returns the request's id.
        """
        self.state = IDLE
        self.server_state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._inbox: Inbox = app_state.setdefault("inbox", Inbox(self._loop))  # all connections share it
        self._app = config.loaded_app
        self._timeouts: Timeouts = app_state["timeouts"]
        self._memory: MemoryBudget = app_state["memory"]
        self._fast_path: FastPath | None = app_state.get("fast_path")
        self._record_refusal: Callable[[ServiceError, Scope], bytes] = app_state.get("record_refusal", lambda *_: b"-")
        self._cycles: list[Cycle | FastRequest] = []  # in order; a FastRequest is the only one
        self._receiving: Cycle | None = None  # the one whose body is being received
        self._error: ServiceError | None = None  # to be sent, in FAILED
        self._charges_response = False  # whether the last response is charged to the memory budget
        self._draining = False
        self._discarded = 0  # bytes, while lingering

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for requests."""
        self.transport = cast("asyncio.Transport", transport)
        self.flow = FlowControl(self.transport, self._memory, self._timeouts.client)
        self.address = get_remote_addr(self.transport)
        self._parser = RequestParser(self, self.address, get_local_addr(self.transport))
        self.server_state.connections.add(self)  # type: ignore[arg-type]  # typed for uvicorn's own protocols
        self._deadline: float | None = self._loop.time() + self._timeouts.client
        self._check_timeouts()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what is computed for the client, and break reference cycles: the garbage collector runs seldom."""
        self.server_state.connections.discard(self)
        self.state = CLOSED
        self.flow.release()
        self._timer.cancel()
        self._parser.close()
        while self._cycles:
            self._cycles.pop().cancel()
        self._receiving = None

    def data_received(self, data: bytes) -> None:
        """Parse what was received, unless something before it waits."""
        if self.state is LINGERING:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self.transport.abort()
        elif self._parser.unparsed:
            self._parser.add(data)
            self._update_backpressure()
        else:
            is_free = self.state is IDLE and not self._cycles and self.flow.writable.is_set()
            if is_free and self._fast_path and (request := self._fast_path.begin(self, data)):
                self._cycles.append(request)
            else:
                self._parser.unparsed = data
                self._inbox.enter(self._begin if is_free else self._parse)

    def _begin(self) -> None:
        """Parse what begins with a request, from which the fast path learns if it is all that was received."""
        data = self._parser.unparsed
        self._parse()
        if self._fast_path and self.state is IDLE and len(self._cycles) == 1 and self._cycles[0].keep_alive:
            self._fast_path.learn(data, self._cycles[0].scope)

    def _parse(self) -> None:
        """Parse what was received until something has to wait; the parser calls the on_… methods."""
        parser = self._parser
        pieces = 0
        try:
            while parser.unparsed and not (self._cycles and self._is_full()):
                if pieces == PIECES_IN_A_TURN:
                    self._loop.call_soon(self._inbox.enter, self._continue)
                    break
                parser.parse_piece()
                pieces += 1
        except ServiceError as error:
            self._fail(error)
        if self.state is BODY:
            self._deadline = None
        if parser.unparsed or not self.flow.is_reading:
            self._update_backpressure()

    def _is_full(self) -> bool:
        """Return whether parsing has to wait for a response, or for the application to take some of the body."""
        if (self._receiving is not None and self._receiving.buffered > BODY_BUFFER) or self.state is FAILED:
            return True
        return len(self._cycles) > 1 or any(isinstance(cycle, FastRequest) for cycle in self._cycles)

    def on_request_begin(self) -> None:
        """Wait for the rest of the head."""
        self.state = HEAD
        self._deadline = None

    def on_request(self, scope: Scope, *, keep_alive: bool) -> None:
        """Queue the request; its body may still be on its way."""
        self.state = BODY
        cycle = self._receiving = Cycle(self, scope, keep_alive=keep_alive and not self._draining)
        self._cycles.append(cycle)
        if len(self._cycles) == 1:
            cycle.start(self._app)

    def on_request_body(self, body: bytes) -> None:
        """Pass some of the body on."""
        if self._receiving:
            self._receiving.feed(body)

    def on_request_end(self) -> None:
        """Wait for the next request."""
        self.state = IDLE
        if self._receiving:
            self._receiving.finish()
            self._receiving = None

    def pause_writing(self) -> None:
        """Wait for the client to read: the transport's buffer is full."""
        if self._cycles and self._cycles[0].started:
            self._charges_response = self._cycles[0].is_charged
        self.flow.pause_writing(self._loop.time(), is_charged=self._charges_response)

    def resume_writing(self) -> None:
        """Go on writing: the client has read."""
        self.flow.resume_writing()

    def shutdown(self) -> None:
        """Close after the requests that were received, or that are on their way, are answered."""
        self._fast_path = None
        if self._cycles:
            self._cycles[-1].keep_alive = False
        if not self._draining:
            self._draining = True
            self._loop.call_later(DRAIN_DELAY_S, self._close_if_idle)

    def on_body_taken(self) -> None:
        """Receive more of the body: some was taken. Not at once: an error would cancel the task that has taken it."""
        self._loop.call_soon(self._continue)

    def on_response_end(self) -> None:
        """Go on after the response to the first request, which may be incomplete."""
        if not self._cycles:  # the connection is lost
            return
        cycle = self._cycles.pop(0)
        self._charges_response = cycle.is_charged
        self.server_state.total_requests += 1
        if self.state not in OPEN:
            return
        unread = bool(self._parser.unparsed) or not self.flow.is_reading
        if not cycle.complete or (unread and not cycle.keep_alive):
            self._linger()
        elif not cycle.keep_alive:
            self._close()
        else:
            self._deadline = None
            if self._cycles:
                self._cycles[0].start(self._app)
            if unread:
                self._continue()

    def respond(self, fields: bytes, body: bytes) -> None:
        """Write the response to a fast request."""
        default = header_lines(tuple(self.server_state.default_headers))
        close = b"" if self._cycles[0].keep_alive else b"connection: close\r\n"
        self.transport.write(b"%b%b%b%b\r\n%b" % (STATUS_LINES[200], default, fields, close, body))
        self.on_response_end()

    def parse_again(self, data: bytes) -> None:
        """Parse `data`, which was received of a fast request, as if it had been none."""
        self._cycles.clear()
        if self._error is not None:  # what came after it is discarded: the connection has to close
            self._refuse(self._error)
            return
        self._parser.unparsed = data + self._parser.unparsed
        self._parse()

    def _continue(self) -> None:
        """Parse more, and receive more: something was answered, or taken, or the event loop has turned."""
        if self.state not in OPEN:
            return
        if self._error is not None and not self._cycles:
            self._refuse(self._error)
        elif self._parser.unparsed:
            self._parse()
        else:
            self._update_backpressure()

    def _update_backpressure(self) -> None:
        """Read only while what is received can be parsed; what is buffered meanwhile is charged to the memory."""
        can_read = not (self._parser.unparsed or self._is_full())
        if self.flow.is_reading == can_read or self.transport.is_closing():
            return
        if can_read:
            self.flow.resume_reading()
            self._deadline = None
        else:
            try:
                self.flow.pause_reading(len(self._parser.unparsed) + sum(cycle.buffered for cycle in self._cycles))
            except ServiceError as error:
                self._fail(error)

    def _fail(self, error: ServiceError) -> None:
        """Receive no more, and send `error` once the complete requests before it are answered."""
        self._parser.discard()
        if self._receiving is not None and self._receiving is not self._cycles[0]:
            self._cycles.pop()
            self._receiving = None
        if self._receiving is not None or not self._cycles:
            self._refuse(error)
        else:
            self.state, self._error = FAILED, error
            self._update_backpressure()

    def _refuse(self, error: ServiceError) -> None:
        """Send `error`, unless a response has begun, and close the connection."""
        cycle = self._cycles[0] if self._cycles else None
        unknown: Scope = {"method": "-", "raw_path": b"-", "client": self.address, "headers": []}
        request_id = self._record_refusal(error, cycle.scope if cycle else unknown)
        if cycle and cycle.started:
            self._close()
            return
        body = problem_document(error)
        fields = {**error.headers, "Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), "Connection": "close"}
        lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in fields.items()).encode()
        lines += b"x-request-id: %b\r\n\r\n" % request_id
        self.transport.writelines((STATUS_LINES[error.status], lines, body))
        if cycle:
            cycle.cancel()
        self._linger()

    def _linger(self) -> None:
        """Send and receive no more, but let the client read what was sent."""
        self.state = LINGERING
        self._receiving = None
        self._parser.discard()
        if not self.flow.is_reading:
            self.flow.resume_reading()
        self._deadline = None
        self.transport.write_eof()

    def _close(self) -> None:
        """Close the connection once all that was written is sent."""
        self.state = CLOSED
        self.transport.close()

    def _close_if_idle(self) -> None:
        if self.state is IDLE and not (self._cycles or self._parser.unparsed):
            self._close()

    def _check_timeouts(self) -> None:
        """Close the connection if its client is too slow.

        Other methods set `_deadline` to None where the client's time begins anew; it is computed here, once per check.
        """
        self._timer = self._loop.call_later(min(self._timeouts.client, self._timeouts.idle) / 8, self._check_timeouts)
        now = self._loop.time()
        if self.flow.is_overdue(now):
            self.transport.abort()
        elif self._waits_for_service():
            self._deadline = None
        elif self._deadline is None:
            limits = {IDLE: self._timeouts.idle, LINGERING: LINGER_S}
            self._deadline = now + limits.get(self.state, self._timeouts.client)
        elif now > self._deadline:
            if self.state is HEAD or self.state is BODY:
                what = f"more of the request's {self.state.value} within {self._timeouts.client:g} s"
                self._refuse(RequestTimeout(f"The client sent nothing {what}."))
            else:
                self._close()

    def _waits_for_service(self) -> bool:
        """Return whether it is the service that lets the client wait, and not the reverse."""
        if self.state not in OPEN:
            return False
        is_answering = bool(self._cycles) and self._cycles[0].complete
        return is_answering or bool(self._parser.unparsed) or not self.flow.is_reading
