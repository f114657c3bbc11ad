"""The service as an ASGI application: request ids, counts, access log and traces around Starlette."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from functools import partial
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from service.api.context import ServedModel
from service.api.model_paths import split_path, split_query
from service.api.operation import Operation
from service.api.request import Request
from service.api.streaming import StreamedResponse
from service.errors import MEDIA_TYPE, ServiceError
from service.telemetry.access_log import AccessLog, AccessRecord
from service.telemetry.counters import CountersByModel
from service.telemetry.tracing import Tracer

METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH")
"""Methods that are counted by name; a client may send any other."""
CLIENT_CLOSED_REQUEST = 499
"""Status, for counts and the log, of a request whose client disconnected before the response; as in nginx."""
REQUEST_ID = re.compile(rb"[\w.:+/=@-]{1,128}", re.ASCII)
"""Request ids of clients that are safe to log."""


def path_below_root(scope: Scope) -> str:
    """Return the path without the server's root path, with which ASGI's `path` begins."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class Application:
    """An ASGI application around Starlette's, which dispatches operations itself.

    An operation needs neither the middleware nor the router of Starlette, which take longer than a small request.
    """

    def __init__(
        self,
        api: Starlette,
        *,
        cors: CORSMiddleware | None,
        access_log: AccessLog | None,
        counters: CountersByModel,
        tracer: Tracer | None,
    ) -> None:
        """`cors` is a middleware around `api`; it adds its header fields to the responses of operations too."""
        self.api = api
        self._cors = cors
        self._access_log = access_log
        self._counters = counters
        self._tracer = tracer
        self._operations: dict[tuple[str, str], Operation] = {
            (method, route.path): route
            for route in api.routes
            if isinstance(route, Operation)
            for method in route.methods or ()
        }
        self._patterns = [
            (method, route.path_regex, route) for (method, _), route in self._operations.items() if "{" in route.path
        ]
        self._model_paths = {route.path for route in self._operations.values() if route.has_model_path}
        self._paths = {route.path for route in api.routes if isinstance(route, Route)}
        self._id_prefix = secrets.token_hex(6).encode()
        self._id_numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or the lifespan; a request that is traced is handled within its span."""
        if scope["type"] != "http":
            await self.api(scope, receive, send)
            return
        if not scope.get("raw_path"):  # optional in ASGI
            scope["raw_path"] = quote(scope["path"]).encode()
        if self._tracer and "span" not in scope:
            await self._tracer.trace_request(self, self._route(scope), scope, receive, send)
            return
        started = time.perf_counter()
        operation = self.find(scope)
        if operation is None:
            await self._dispatch_starlette(scope, receive, send, started)
            return
        scope["app"] = self.api
        request = Request(scope, receive)
        request_id = scope["request_id"] = self.request_id(request.fields.get(b"x-request-id"))
        status, media_type, size = CLIENT_CLOSED_REQUEST, "", 0
        try:
            response = await operation.respond(request)
            response.raw_headers.append((b"x-request-id", request_id))
            if request.reservation is not None:
                scope["charged"] = True
            if self._cors:
                send = partial(self._cors.send, send=send, request_headers=Headers(scope=scope))
            await response(scope, receive, send)
            status, media_type = response.status_code, response.media_type or ""
            size = response.size if isinstance(response, StreamedResponse) else len(response.body)
        finally:
            if request.reservation is not None:
                request.reservation.close()
            traceparent = request.fields.get(b"traceparent", b"")
            self._record(scope, operation.path, status, media_type, request.bytes_received, size, started, traceparent)

    async def _dispatch_starlette(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        """Respond by Starlette, or to a preflight request by the CORS middleware."""
        status, media_type, size = CLIENT_CLOSED_REQUEST, "", 0
        fields = dict(scope["headers"])
        request_id = scope["request_id"] = self.request_id(fields.get(b"x-request-id"))

        async def send_with_id(message: Message) -> None:
            nonlocal status, media_type, size
            if message["type"] == "http.response.start":
                status = message["status"]
                media_type = dict(message["headers"]).get(b"content-type", b"").decode("latin-1")
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            size += len(message.get("body", b""))
            await send(message)

        starlette_scope = scope
        if (names := split_path(path_below_root(scope))) and names[1] in self._model_paths:  # with another method
            starlette_scope = {**scope, "path": scope.get("root_path", "") + names[1]}
        try:
            await (self._cors or self.api)(starlette_scope, receive, send_with_id)
        finally:
            route, traceparent = self._route(scope), fields.get(b"traceparent", b"")
            self._record(scope, route, status, media_type.partition(";")[0], 0, size, started, traceparent)

    def record_refusal(self, error: ServiceError, scope: Scope) -> bytes:
        """Count and log an error that a connection answers without the application; return the request id."""
        self._counters["", ""].count_refusal(error)
        if "request_id" in scope:
            scope["refused"] = error.status
        else:
            scope["request_id"] = self.request_id(None)
            self._record(scope, "other", error.status, MEDIA_TYPE, 0, 0, time.perf_counter(), b"")
        request_id: bytes = scope["request_id"]
        return request_id

    def request_id(self, given: bytes | None) -> bytes:
        """Return the client's request id if it is safe to log, or a new one."""
        if given and REQUEST_ID.fullmatch(given):
            return given
        return b"%b-%x" % (self._id_prefix, next(self._id_numbers))

    def find(self, scope: Scope) -> Operation | None:
        """Return the operation of a request; what its path says of the model is put into `scope`, as `meant`."""
        method = scope["method"]
        if operation := self._operations.get((method, scope["path"])):
            return operation
        path = path_below_root(scope)
        if operation := self._operations.get((method, path)):
            return operation
        if (names := split_path(path)) and names[1] in self._model_paths:
            if not (operation := self._operations.get((method, names[1]))):
                return None
            version, query = split_query(scope["query_string"])
            if "meant" not in scope:
                scope["meant"] = names[0], version
                scope["query_string"] = query
            return operation
        for of_method, pattern, operation in self._patterns:
            if of_method == method and (match := pattern.match(path)):
                scope["meant"] = match["name"], match.groupdict().get("version")
                return operation
        return None

    def _route(self, scope: Scope) -> str:
        """Return the route's path as a metric's label; unknown paths share one, since there may be any number."""
        path = path_below_root(scope)
        if (names := split_path(path)) and names[1] in self._model_paths:
            path = names[1]
        if path in self._paths:
            return path
        patterns = (operation.path for _, pattern, operation in self._patterns if pattern.match(path))
        return next(patterns, "page" if path.startswith("/web/") else "other")

    def _record(
        self,
        scope: Scope,
        route: str,
        status: int,
        media_type: str,
        bytes_in: int,
        bytes_out: int,
        started: float,
        traceparent: bytes,
    ) -> None:
        seconds = time.perf_counter() - started
        if status == CLIENT_CLOSED_REQUEST and "refused" in scope:
            status, media_type = scope["refused"], MEDIA_TYPE
        method, client = scope["method"], scope.get("client")
        model: ServedModel | None = scope.get("model")
        self.record(
            AccessRecord(
                time.time(),
                client[0] if client else "-",
                method,
                scope["raw_path"],
                route,
                status,
                bytes_in,
                0 if method == "HEAD" else bytes_out,  # the server leaves out the body
                seconds,
                scope.get("timing"),
                scope["request_id"],
                traceparent,
                *((model.name, model.version) if model else ("", "")),
            ),
            media_type,
        )

    def record(self, record: AccessRecord, media_type: str) -> None:
        """Count and log a request; `media_type` is that of the response."""
        method = record.method if record.method in METHODS else "other"
        counters = self._counters[record.model, record.version]
        counters.requests[record.route, method, record.status, media_type] += 1
        counters.histogram("vae_request_duration_seconds", record.route).add(record.seconds)
        if self._access_log:
            self._access_log.add(record)
