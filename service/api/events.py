"""Progress and result of a computation as server-sent events (WHATWG HTML, section 9.2).

`progress` events have `{"done", "total"}`: pieces of the computation, which are batches of small images and tiles of
large ones. The last event is `result`, with the JSON that the route gives without events, or `error`, with the problem
document.
"""

from __future__ import annotations

import asyncio
import time

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.bodies import JSON
from service.api.negotiation import negotiate
from service.api.operation import AccessControl, Operation
from service.api.request import Request
from service.api.responses import IMAGE_OFFERS
from service.errors import NotAcceptable
from service.telemetry.timing import Timing

EVENT_STREAM = "text/event-stream"
EVENTS = ("/encode", "/decode", "/reconstruct")
"""Paths of the routes whose progress can be followed."""
QUICK_S = 0.5
"""Seconds within which an error is answered with its status, without events, as are those of wrong requests."""
POLL_S = 0.2
"""Seconds between two looks at the progress."""
KEEP_ALIVE_S = 15.0
"""Seconds without an event after which a comment is sent, as the standard recommends for proxies that close idle
connections."""


def wants_events(request: Request) -> bool:
    """Whether the Accept header prefers events."""
    accept = request.field(b"accept")
    try:
        return EVENT_STREAM in accept.lower() and negotiate(accept, (*IMAGE_OFFERS, EVENT_STREAM)) == EVENT_STREAM
    except NotAcceptable:
        return False  # reported by the route


class EventOperation(Operation):
    """An operation that answers `Accept: text/event-stream` by events, and all other requests as Operation."""

    async def respond(self, request: Request) -> Response:
        """Return the response to a request; exceptions become error responses, or events."""
        if not wants_events(request):
            return await super().respond(request)
        request.fields = request.fields | {b"accept": JSON.encode()}
        task = asyncio.create_task(super().respond(request))
        try:
            await asyncio.wait({task}, timeout=QUICK_S)
            if task.done() and (response := task.result()).status_code >= 400:
                return response
        except BaseException:
            task.cancel()
            raise
        access: AccessControl = request.scope["app"].state["access_control"]
        stream = EventStream(task, request.timing)
        stream.raw_headers += self.response_fields(access)
        return stream


class EventStream(Response):
    """Events of the progress of `task`, and of its response."""

    media_type = EVENT_STREAM

    def __init__(self, task: asyncio.Task[Response], timing: Timing) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""  # the access log counts that of the last event
        self.raw_headers = [(b"content-type", EVENT_STREAM.encode()), (b"cache-control", b"no-store")]
        self._task = task
        self._timing = timing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; the computation ends with the client's connection."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_progress(send)
            response = self._task.result()
            self.body = bytes(response.body)
            name = b"error" if response.status_code >= 400 else b"result"
            for piece in (b"event: %b\ndata: " % name, self.body):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"\n\n"})
        finally:
            self._task.cancel()

    async def _send_progress(self, send: Send) -> None:
        """Send an event whenever a piece is computed, until all are."""
        sent, since = (0, 0), time.monotonic()
        finished = False
        while not finished:
            finished = self._task.done()
            progress = self._timing.pieces, self._timing.total_pieces
            event = b""
            if progress != sent:
                event = b"event: progress\ndata: %b\n\n" % orjson.dumps(
                    dict(zip(("done", "total"), progress, strict=True))
                )
            elif time.monotonic() - since > KEEP_ALIVE_S:
                event = b":\n\n"
            if event:
                sent, since = progress, time.monotonic()
                await send({"type": "http.response.body", "body": event, "more_body": True})
            if not finished:
                await asyncio.wait({self._task}, timeout=POLL_S)
