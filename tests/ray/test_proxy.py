"""What Serve's proxies have around them; without Ray."""

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


def ask(app: ASGIApp, path: str = "/", **headers: str) -> httpx.Response:
    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(Problems(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(get())


@pytest.mark.parametrize(
    ("said", "status"),
    [(404, 503), (408, 504), (429, 503), (503, 503)],
    ids=["no application", "late", "full", "no replica"],
)
def test_what_serve_says_is_said_as_the_service_does(said: int, status: int) -> None:
    answer = ask(PlainTextResponse("Ping http://.../-/routes", said))
    assert "routes" not in problem(answer, status)["detail"]
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)


def test_no_answer_is_one() -> None:
    """Serve gives none where the replica has died."""

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        return

    answer = ask(silent)
    assert "has ended" in problem(answer, 503)["detail"]
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "answer",
    [
        Response(b"png", 200, media_type="image/png"),
        JSONResponse({"error": "no"}, 422),
        error_response(NotFound("There is no /.")),
    ],
)
def test_what_the_service_says_is_left_as_it_is(answer: Response) -> None:
    given = ask(answer)
    assert (given.status_code, given.content) == (answer.status_code, answer.body)


@pytest.mark.parametrize("path", ["/-/healthz", "/-/routes"])
def test_serves_own_probes_are_left_as_they_are(path: str) -> None:
    assert ask(PlainTextResponse("draining", 503), path).text == "draining"


@pytest.mark.parametrize("given", ["", "mine", "a b"])
def test_a_request_has_one_name(given: str) -> None:
    """Serve adds what it finds in the request to an answer that has it already."""
    heard: list[str] = []

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope["headers"])[b"x-request-id"].decode()
        heard.append(name)
        response = PlainTextResponse("")
        response.raw_headers += [(b"x-request-id", name.encode())] * 2
        await response(scope, receive, send)

    answer = ask(serve, **{"x-request-id": given})
    assert answer.headers["x-request-id"] == heard[0]
    assert re.fullmatch("mine" if given == "mine" else "[0-9a-f]{12}-[0-9a-f]+", heard[0])


def test_a_proxy_has_the_services_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    (middleware,) = middlewares()
    assert middleware.cls is Problems  # type: ignore[comparison-overlap]  # Starlette types it as a call
    config = uvicorn.Config(lambda: None, factory=True)  # as Serve makes it
    config.load()
    assert config.http_protocol_class is ProxyConnection
