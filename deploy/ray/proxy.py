"""Ray Serve's HTTP proxies with the service's own connections, and what they say of their own accord in its form.

Each node's proxy takes them from its environment, and the connections' settings (VAE_CLIENT_TIMEOUT,
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
from service.api.responses import error_response
from service.errors import DeadlineExceeded, ServiceError, Unavailable
from service.http.connection import Connection
from service.http.timeouts import Timeouts
from service.memory_budget import MemoryBudget
from service.settings import read_settings

PROBES = ("/-/healthz", "/-/routes")
"""Serve's own, for load balancers: they stay as they are."""


def middlewares() -> list[Middleware]:
    """What every proxy has around it; Serve calls this before it makes uvicorn's server, which takes any connection."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:ProxyConnection"
    return [Middleware(Problems)]


class ProxyConnection(Connection):
    """The service's connection, in a process where no lifespan of the service has left what it needs."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        app_state["timeouts"] = _timeouts()
        app_state["memory"] = _memory()
        super().__init__(config, server_state, app_state, _loop)


class Problems:
    """Turns each error that is not the service's own, which is plain text, into one that is (RFC 9457).

    It names each request that has no name, as the service does: Serve would in another form.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._run = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        name = self._name(scope)
        status = 0
        told = False

        async def pass_on(message: Message) -> None:
            nonlocal status, told
            if message["type"] == "http.response.start":
                status = message["status"]
                fields = MutableHeaders(scope=message)
                told = status < 400 or not fields.get("content-type", "").startswith("text/plain")
                fields["x-request-id"] = name  # once: the proxy has added it to the service's
            if told:
                await send(message)

        await self._app(scope, receive, pass_on)
        if not told:
            answer = error_response(_translate(status))
            answer.raw_headers.append((b"x-request-id", name.encode()))
            await answer(scope, receive, send)

    def _name(self, scope: Scope) -> str:
        """The request's id, which is in its header fields afterwards."""
        fields = MutableHeaders(scope=scope)
        name = fields.get("x-request-id", "")
        if not REQUEST_ID.fullmatch(name.encode("latin-1")):
            name = fields["x-request-id"] = f"{self._run}-{next(self._numbers):x}"
        return name


@cache
def _memory() -> MemoryBudget:
    return MemoryBudget(read_settings([]).memory_limit)


@cache
def _timeouts() -> Timeouts:
    settings = read_settings([])
    return Timeouts(settings.client_timeout, settings.keep_alive)


def _translate(status: int) -> ServiceError:
    """Serve's status, 0 where it gave no answer → the service's error."""
    match status:
        case 0:
            return Unavailable("The replica that had this request has exited; try again in a moment.", "replica_lost")
        case 404:
            return Unavailable("The service is starting; try again in a moment.", "starting")
        case 408:
            return DeadlineExceeded("No replica has answered in time.")
        case _:
            return Unavailable("No replica can take this request now; try again in a moment.", "queue_full")
