"""/docs and the OpenAPI document, which FastAPI makes when one of them is first asked for: its import takes 20 MB."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from inspect import signature
from threading import Lock
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from service.version import TITLE

PATHS = ("/docs", "/docs/oauth2-redirect", "/openapi.json")


class Documentation:
    """An ASGI application for PATHS."""

    def __init__(self, described: Sequence[BaseRoute], icon: str) -> None:
        """Describe the routes `described`; `icon` is the path of the page's icon."""
        self._described = described
        self._icon = icon
        self._endpoints: dict[str, Callable[..., Any]] = {}
        self._lock = Lock()  # FastAPI makes no two documents at a time
        self._responses: dict[tuple[str, str], Response] = {}  # by root path, which the server sets, and path

    @property
    def routes(self) -> list[BaseRoute]:
        """Its routes, and the folder of what /docs loads."""
        files = StaticFiles(packages=[("fastapi_offline", "static")])
        return [*(Route(path, self, methods=["GET"]) for path in PATHS), Mount("/static-offline-docs", files)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond; each response is rendered once."""
        root_path = scope.get("root_path", "")
        key = root_path, scope["path"].removeprefix(root_path)
        if key not in self._responses:
            endpoint = (await asyncio.to_thread(self._load))[key[1]]
            takes_request = bool(signature(endpoint).parameters)
            self._responses[key] = await (endpoint(Request(scope)) if takes_request else endpoint())
        await self._responses[key](scope, receive, send)

    def _load(self) -> dict[str, Callable[..., Any]]:
        """Return FastAPI's endpoints by their paths, which the first call creates."""
        with self._lock:
            self._endpoints = self._endpoints or self._create()
            return self._endpoints

    def _create(self) -> dict[str, Callable[..., Any]]:
        from fastapi_offline import FastAPIOffline  # noqa: PLC0415 - few ask for it

        from service.api.openapi import openapi  # noqa: PLC0415 - as above

        app = FastAPIOffline(
            favicon_url=self._icon,
            redoc_url=None,
            title=TITLE,
            swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
        )
        document = openapi(self._described)
        app.openapi = lambda: document  # type: ignore[method-assign]  # FastAPI's documented way to replace it
        return {route.path: route.endpoint for route in app.routes if isinstance(route, Route)}
