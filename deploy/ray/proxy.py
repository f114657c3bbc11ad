"""Gives Ray Serve's HTTP proxies the service's connections, and turns Serve's own errors into problem documents.

Each node's proxy loads this through its environment, which has the connections' settings (VAE_CLIENT_TIMEOUT,
VAE_KEEP_ALIVE, VAE_MEMORY_LIMIT) too:

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deploy.ray.proxy.middlewares
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from functools import cache
from typing import Any

import uvicorn.config
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from service.api.application import REQUEST_ID
from service.api.responses import refuse
from service.errors import DeadlineExceeded, ServiceError, Unavailable
from service.http.connection import Connection, Timeouts
from service.memory_budget import MemoryBudget
from service.settings import read_settings

PROBES = ("/-/healthz", "/-/routes")
"""Serve's own routes for load balancers, whose responses are not changed."""


def middlewares() -> list[Middleware]:
    """Select the service's connections, and return every proxy's middleware.

    Serve calls this before it creates uvicorn's server.
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:ProxyConnection"
    return [Middleware(Problems)]


class ProxyConnection(Connection):
    """The service's connection, in a process that does not run the service's lifespan, which would create its state."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        app_state["patience"] = _timeouts()
        app_state["memory"] = _memory()
        super().__init__(config, server_state, app_state, _loop)


class Problems:
    """Replaces Serve's own errors, which are plain text, by the service's problem documents (RFC 9457).

    It also gives each request without a request id one of the service's form, before Serve adds one of its own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._run = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request as an ASGI application."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        request_id = self._request_id(scope)
        status = 0
        forwarded = False

        async def forward(message: Message) -> None:
            nonlocal status, forwarded
            if message["type"] == "http.response.start":
                status = message["status"]
                fields = MutableHeaders(scope=message)
                forwarded = status < 400 or not fields.get("content-type", "").startswith("text/plain")
                fields["x-request-id"] = request_id  # replaces two: the service and the proxy both add one
            if forwarded:
                await send(message)

        await self._app(scope, receive, forward)
        if not forwarded:
            response = refuse(_translate(status))
            response.raw_headers.append((b"x-request-id", request_id.encode()))
            await response(scope, receive, send)

    def _request_id(self, scope: Scope) -> str:
        """Return the request's id, after adding it to its header fields if it has none."""
        fields = MutableHeaders(scope=scope)
        request_id = fields.get("x-request-id", "")
        if not REQUEST_ID.fullmatch(request_id.encode("latin-1")):
            request_id = fields["x-request-id"] = f"{self._run}-{next(self._numbers):x}"
        return request_id


@cache
def _memory() -> MemoryBudget:
    return MemoryBudget(read_settings([]).memory_limit)


@cache
def _timeouts() -> Timeouts:
    settings = read_settings([])
    return Timeouts(settings.client_timeout, settings.keep_alive)


def _translate(status: int) -> ServiceError:
    """Return the service's error for Serve's status, which is 0 where Serve sent no response."""
    match status:
        case 0:
            return Unavailable("The replica that had this request has exited; try again in a moment.", "replica_lost")
        case 404:
            return Unavailable("The service is starting; try again in a moment.", "starting")
        case 408:
            return DeadlineExceeded("No replica has responded in time.")
        case _:
            return Unavailable("All replicas are busy; try again in a moment.", "queue_full")
