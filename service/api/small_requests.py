"""Small requests on the fast path: admission, computation, response, counting and logging without a task."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import Message, Scope

from service.api.admission import Admission
from service.api.application import CLIENT_CLOSED_REQUEST, Application
from service.api.context import Models, ServedModel
from service.api.events import wants_events
from service.api.operation import AccessControl, server_timing
from service.api.request import Request
from service.api.small_operations import SmallOperation
from service.errors import ServiceError
from service.http.fast_path import Client, FastRequest
from service.inference.backend import Arrays
from service.telemetry.access_log import AccessRecord
from service.telemetry.timing import Timing

MAX_BODY = 2**14
"""Bytes of a body, which take a millisecond or two to parse."""
UNPLANNED = (b"content-encoding", b"transfer-encoding", b"expect")
"""Header fields whose requests are answered as any other."""


@dataclass(frozen=True, slots=True)
class SmallPlan:
    """How the small requests with one head are answered: a Plan of service.http.fast_path."""

    application: Application
    admission: Admission
    key: bytes
    """Digest of the client's API key."""
    model: ServedModel
    content_length: int
    small: SmallOperation
    route: str
    raw_path: bytes
    content_type: bytes
    fields: bytes
    """Lines of the response's fields that are always the same, but for content-type."""

    def begin(self, client: Client, data: bytes, body: bytes, varying: Mapping[bytes, bytes]) -> SmallRequest | None:
        """Queue the request for the next batch."""
        started = time.perf_counter()
        if not self.admission.admit(self.key, self.model):
            return None
        try:
            row = self.small.read(body)
        except Exception:
            row = None  # the application meets the same error and reports it
        if row is None:
            self.admission.release(self.key, self.model)
            return None
        request = SmallRequest(self, client, data, varying, started)
        self.small.batcher.submit_for(request, row, request)
        return request


class SmallRequest(Timing, FastRequest):
    """One small request. The batcher delivers the result to it as to a future, and it sends the response."""

    __slots__ = ("_client", "_data", "_done", "_plan", "_started", "_varying", "keep_alive")

    def __init__(
        self, plan: SmallPlan, client: Client, data: bytes, varying: Mapping[bytes, bytes], started: float
    ) -> None:
        super().__init__()
        self.keep_alive = True
        self._plan = plan
        self._client = client
        self._data = data
        self._varying = varying
        self._started = started
        self._done = False

    def done(self) -> bool:
        """Whether no result is awaited any more."""
        return self._done

    def set_result(self, result: Arrays) -> None:
        """Send the response."""
        plan = self._plan
        try:
            body = plan.small.write(result)
        except Exception as error:
            self.set_exception(error)
            return
        self._end()
        request_id = plan.application.request_id(self._varying.get(b"x-request-id"))
        self._client.respond(
            b"%bcontent-length: %d\r\nserver-timing: %b\r\n%bx-request-id: %b\r\n"
            % (plan.content_type, len(body), server_timing(self), plan.fields, request_id),
            body,
        )
        self._record(request_id, 200, plan.small.media_type, len(body))

    def set_exception(self, _: Exception) -> None:
        """Leave the request to the parser and the application, which meet the same error and report it."""
        self._end()
        self._client.parse_again(self._data)

    def cancel(self) -> None:
        """As FastRequest."""
        if not self._done:
            self._end()
            request_id = self._plan.application.request_id(self._varying.get(b"x-request-id"))
            self._record(request_id, CLIENT_CLOSED_REQUEST, "", 0)

    def _end(self) -> None:
        self._done = True
        self._plan.admission.release(self._plan.key, self._plan.model)

    def _record(self, request_id: bytes, status: int, media_type: str, size: int) -> None:
        plan, client = self._plan, self._client.address
        plan.application.record(
            AccessRecord(
                time.time(),
                client[0] if client else "-",
                "POST",
                plan.raw_path,
                plan.route,
                status,
                plan.content_length,
                size,
                time.perf_counter() - self._started,
                self,
                request_id,
                self._varying.get(b"traceparent", b""),
                plan.model.name,
                plan.model.version,
            ),
            media_type,
        )


def make_plan(application: Application, scope: Scope) -> SmallPlan | None:
    """Return the plan for requests with the head of `scope`; None for those that are answered as any other."""
    operation = application.find(scope)
    if operation is None or operation.small is None:
        return None
    request = Request({**scope, "app": application.api, "whole_body": b""}, _receive_nothing)
    access: AccessControl = application.api.state.access_control
    models: Models = application.api.state.models
    length = int(request.field(b"content-length") or 0)
    is_small = 0 < length <= min(MAX_BODY, access.limits.body)
    if not is_small or wants_events(request) or any(name in request.fields for name in UNPLANNED):
        return None
    try:
        key = access.identify(request)
        model = models.find(*scope.get("meant", ()))
        context = model.context
        if context is None or not context.engine.is_inline:  # a slow model needs deadlines
            return None
        small = operation.small(request, context, operation.read_options(scope["query_string"]))
    except ServiceError:
        return None
    if small is None:
        return None
    fields = b"".join(b"%b: %b\r\n" % field for field in operation.response_fields(access))
    content_type = b"content-type: %b\r\n" % small.media_type.encode()
    return SmallPlan(
        application,
        access.admission,
        key,
        model,
        length,
        small,
        operation.path,
        scope["raw_path"],
        content_type,
        fields,
    )


async def _receive_nothing() -> Message:
    raise NotImplementedError
