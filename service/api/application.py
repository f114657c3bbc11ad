"""The first to see a request, and the last to see its answer."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from functools import partial
from urllib.parse import quote

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from service.api.operation import Operation
from service.api.request import Request
from service.errors import MEDIA_TYPE, ServiceError
from service.telemetry.access_log import AccessLog, Exchange
from service.telemetry.counters import Counters
from service.telemetry.tracing import Tracer

METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH")
HUNG_UP = 499
"""The status of an exchange that the caller has broken off; nginx has the same."""
REQUEST_ID = re.compile(rb"[\w.:+/=@-]{1,128}", re.ASCII)


def path_below_root(scope: Scope) -> str:
    """The path without the server's root path, with which ASGI's `path` begins."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class Application:
    """The service as an ASGI application: FastAPI's, with a short cut to the operations; names, counts and logs all.

    An operation needs none of FastAPI's middleware and router.
    """

    def __init__(
        self,
        api: FastAPI,
        *,
        cors: CORSMiddleware | None,
        access_log: AccessLog | None,
        counters: Counters,
        tracer: Tracer | None,
    ) -> None:
        """`cors` is a middleware around `api`; it adds its header fields to the answers of operations too."""
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
        self._paths = {route.path for route in api.routes if isinstance(route, Route)}
        self._run = secrets.token_hex(6).encode()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        if scope["type"] != "http":
            await self.api(scope, receive, send)
            return
        if not scope.get("raw_path"):  # optional, by ASGI
            scope["raw_path"] = quote(scope["path"]).encode()
        if self._tracer:
            await self._tracer.request(self._answer, self._route(scope), scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        path = path_below_root(scope)
        operation = self._operations.get((scope["method"], path)) or self._match(scope, path)
        if operation is None:
            await self._dispatch_fastapi(scope, receive, send, started)
            return
        scope["app"] = self.api
        request = Request(scope, receive)
        name = scope["request_id"] = self._request_id(request.fields.get(b"x-request-id"))
        status, media_type, size = HUNG_UP, "", 0
        try:
            response = await operation.respond(request)
            response.raw_headers.append((b"x-request-id", name))
            scope["charged"] = request.reservation is not None
            if self._cors:
                send = partial(self._cors.send, send=send, request_headers=Headers(scope=scope))
            await response(scope, receive, send)
            status, media_type, size = response.status_code, response.media_type or "", len(response.body)
        finally:
            if request.reservation is not None:
                request.reservation.close()
            traceparent = request.fields.get(b"traceparent", b"")
            self._record(scope, operation.path, status, media_type, request.bytes_received, size, started, traceparent)

    async def _dispatch_fastapi(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        """Answer by FastAPI, or a preflight by the CORS middleware."""
        status, media_type, size = HUNG_UP, "", 0
        fields = dict(scope["headers"])
        name = scope["request_id"] = self._request_id(fields.get(b"x-request-id"))

        async def see(message: Message) -> None:
            nonlocal status, media_type, size
            if message["type"] == "http.response.start":
                status = message["status"]
                media_type = dict(message["headers"]).get(b"content-type", b"").decode("latin-1")
                message["headers"] = [*message["headers"], (b"x-request-id", name)]
            size += len(message.get("body", b""))
            await send(message)

        try:
            await (self._cors or self.api)(scope, receive, see)
        finally:
            route, traceparent = self._route(scope), fields.get(b"traceparent", b"")
            self._record(scope, route, status, media_type.partition(";")[0], 0, size, started, traceparent)

    def refuse(self, error: ServiceError, scope: Scope) -> bytes:
        """Note what a connection refuses by itself; returns the id of the request, or of what was to be one."""
        self._counters.refuse(error)
        if "request_id" in scope:
            scope["refused"] = error.status
        else:
            scope["request_id"] = self._request_id(None)
            self._record(scope, "other", error.status, MEDIA_TYPE, 0, 0, time.perf_counter(), b"")
        name: bytes = scope["request_id"]
        return name

    def _request_id(self, given: bytes | None) -> bytes:
        """The request's id: the caller's, if it can stand in a log, or one of our own."""
        if given and REQUEST_ID.fullmatch(given):
            return given
        return b"%b-%x" % (self._run, next(self._numbers))

    def _match(self, scope: Scope, path: str) -> Operation | None:
        """The operation whose path has parameters, these."""
        for method, pattern, operation in self._patterns:
            if method == scope["method"] and (match := pattern.match(path)):
                scope["path_params"] = match.groupdict()
                return operation
        return None

    def _route(self, scope: Scope) -> str:
        """What it is counted as: there are more paths than can be counted apart."""
        path = path_below_root(scope)
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
        received: int,
        size: int,
        started: float,
        traceparent: bytes,
    ) -> None:
        seconds = time.perf_counter() - started
        if status == HUNG_UP and "refused" in scope:
            status, media_type = scope["refused"], MEDIA_TYPE
        method = scope["method"]
        if method == "HEAD":
            size = 0  # the connection leaves the body out
        self._counters.requests[route, method if method in METHODS else "other", status, media_type] += 1
        self._counters.histogram("vae_request_duration_seconds", route).add(seconds)
        if self._access_log:
            client = scope.get("client")
            self._access_log.add(
                Exchange(
                    time.time(),
                    client[0] if client else "-",
                    method,
                    scope["raw_path"],
                    route,
                    status,
                    received,
                    size,
                    seconds,
                    scope.get("timing"),
                    scope["request_id"],
                    traceparent,
                )
            )
