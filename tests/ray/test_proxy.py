"""The middleware and connections of Serve's proxies; these tests need no Ray."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest
import uvicorn.config
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.ray.proxy import Problems, ProxyConnection, middlewares
from service.api.responses import error_response
from service.errors import NotFound
from tests.service.problems import problem


def request(app: ASGIApp, path: str = "/", **headers: str) -> httpx.Response:
    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(Problems(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(get())


@pytest.mark.parametrize(
    ("serve_status", "status"),
    [(404, 503), (408, 504), (429, 503), (503, 503)],
    ids=["no application", "late", "full", "no replica"],
)
def test_serve_s_errors_become_problem_documents(serve_status: int, status: int) -> None:
    response = request(PlainTextResponse("Ping http://.../-/routes", serve_status))
    assert "routes" not in problem(response, status)["detail"]
    assert response.headers.get("retry-after") == ("1" if status == 503 else None)


def test_no_response_is_an_error() -> None:
    """Serve sends no response if the replica has died."""

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        return

    response = request(silent)
    assert "has exited" in problem(response, 503)["detail"]
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "response",
    [
        Response(b"png", 200, media_type="image/png"),
        JSONResponse({"error": "no"}, 422),
        error_response(NotFound("There is no /.")),
    ],
)
def test_the_service_s_responses_are_not_changed(response: Response) -> None:
    received = request(response)
    assert (received.status_code, received.content) == (response.status_code, response.body)


@pytest.mark.parametrize("path", ["/-/healthz", "/-/routes"])
def test_serve_s_health_checks_are_not_changed(path: str) -> None:
    assert request(PlainTextResponse("draining", 503), path).text == "draining"


@pytest.mark.parametrize("given", ["", "mine", "a b"])
def test_a_request_has_one_id(given: str) -> None:
    """Serve adds the id of the request to a response that has it already."""
    seen: list[str] = []

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = dict(scope["headers"])[b"x-request-id"].decode()
        seen.append(request_id)
        response = PlainTextResponse("")
        response.raw_headers += [(b"x-request-id", request_id.encode())] * 2
        await response(scope, receive, send)

    response = request(serve, **{"x-request-id": given})
    assert response.headers["x-request-id"] == seen[0]
    assert re.fullmatch("mine" if given == "mine" else "[0-9a-f]{12}-[0-9a-f]+", seen[0])


def test_a_proxy_uses_the_service_s_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    (middleware,) = middlewares()
    assert middleware.cls is Problems  # type: ignore[comparison-overlap]  # Starlette types it as a call
    config = uvicorn.Config(lambda: None, factory=True)  # as Serve creates it
    config.load()
    assert config.http_protocol_class is ProxyConnection
