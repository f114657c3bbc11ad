"""The first to see a request, and the last to see its answer."""

from __future__ import annotations

import time

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from service.access import AccessLog, Exchange
from service.operation import Operation


class Front:
    """The service as an ASGI application: FastAPI's, with a short cut to the operations, and the log of all exchanges.

    An operation needs none of FastAPI's middleware and router. `shortcuts` are off where all have to pass a middleware.
    """

    def __init__(self, api: FastAPI, *, shortcuts: bool, access_log: AccessLog | None) -> None:
        self.api = api
        self._access_log = access_log
        self._operations: dict[tuple[str, str], Operation] = {
            (method, route.path): route
            for route in api.routes
            if shortcuts and isinstance(route, Operation)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        if scope["type"] != "http":
            await self.api(scope, receive, send)
            return
        started = time.perf_counter()
        operation = self._operations.get((scope["method"], scope["path"]))
        if operation is None:
            await self._go_round(scope, receive, send, started)
            return
        scope["app"] = self.api
        response = await operation.respond(scope, receive)
        await response(scope, receive, send)
        self._log(scope, response.status_code, len(response.body), started)

    async def _go_round(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        """Answer by FastAPI."""
        status = size = 0

        async def count(message: Message) -> None:
            nonlocal status, size
            status = message.get("status", status)
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self.api(scope, receive, count)
        finally:
            self._log(scope, status, size, started)

    def _log(self, scope: Scope, status: int, size: int, started: float) -> None:
        if self._access_log:
            self._access_log.add(Exchange.of(scope, status, size, time.perf_counter() - started))
