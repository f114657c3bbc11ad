"""The same service under other ASGI servers: `create_app` as a factory, with settings from the environment."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Thread
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.utils import load_application
from starlette.testclient import TestClient

from service.api.application import Application
from service.app import create_app
from service.settings import SettingsError
from tests.service.pictures import npy, png
from tests.service.running import Running, running, wait_until

JSON, NPY, PNG = "application/json", "application/x-npy", "image/png"
DIGIT = np.arange(28 * 28).reshape(28, 28).astype(np.uint8)
KEY = {"x-api-key": "key"}
INFERENCE = {"inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [0.1, -0.2, 0.3]}]}
OF_THE_SERVER = ("date", "server", "x-request-id", "server-timing", "connection", "transfer-encoding")
"""Header fields that differ between servers or requests."""


def sent(body: bytes, media_type: str, **headers: str) -> dict[str, Any]:
    return {"content": body, "headers": {**KEY, "content-type": media_type, **headers}}


REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "encode": ("POST", "/encode", sent(png(DIGIT), PNG)),
    "encode gzip": ("POST", "/encode", sent(gzip.compress(npy(DIGIT)), NPY, **{"content-encoding": "gzip"})),
    "encode a form": ("POST", "/encode", {"files": [("image", ("a", png(DIGIT), PNG))] * 2, "headers": KEY}),
    "decode": ("POST", "/decode", sent(b"[0.1, -0.2, 0.3]", JSON)),
    "decode to JSON": ("POST", "/decode", sent(b"[0.1, -0.2, 0.3]", JSON, accept=JSON)),
    "reconstruct": ("POST", "/reconstruct?draw=true&seed=3", sent(png(DIGIT), PNG, accept=JSON)),
    "sample": ("GET", "/sample?n=4&seed=7", {"headers": KEY}),
    "interpolate": ("POST", "/interpolate", sent(b'{"from": [0, 0, 0], "to": [1, 1, 1]}', JSON)),
    "traverse": ("POST", "/traverse", sent(b'{"at": [0, 0, 0], "dimensions": [0], "steps": 8}', JSON)),
    "latents": ("GET", "/latents", {"headers": KEY}),
    "model": ("GET", "/model", {"headers": KEY}),
    "remote decode": ("POST", "/remote/decode?shape=1&shape=3", sent(bytes(12), "tensor/binary")),
    "remote encode": ("POST", "/remote/encode", sent(png(DIGIT), PNG)),
    "inference server": ("GET", "/v2", {"headers": KEY}),
    "inference model": ("GET", "/v2/models/mnist", {"headers": KEY}),
    "inference": ("POST", "/v2/models/mnist/versions/1/infer", {"json": INFERENCE, "headers": KEY}),
    "live": ("GET", "/livez", {}),
    "ready": ("GET", "/readyz", {}),
    "inference ready": ("GET", "/v2/health/ready", {}),
    "page": ("GET", "/", {}),
    "docs": ("GET", "/docs", {}),
    "OpenAPI": ("GET", "/openapi.json", {}),
    "spread": ("GET", "/web/spread.json", {"headers": KEY}),
    "HEAD": ("HEAD", "/model", {"headers": KEY}),
    "preflight": (
        *("OPTIONS", "/decode"),
        {"headers": {"origin": "https://a.example", "access-control-request-method": "POST"}},
    ),
    "another site": ("GET", "/model", {"headers": {**KEY, "origin": "https://a.example"}}),
    "400": ("POST", "/encode", sent(b"no image", PNG)),
    "401": ("GET", "/model", {}),
    "401 metrics": ("GET", "/metrics", {}),
    "404": ("GET", "/nowhere%2Felse", {}),
    "404 inference": ("GET", "/v2/nowhere", {}),
    "405": ("DELETE", "/decode", {}),
    "406": ("GET", "/model", {"headers": {**KEY, "accept": "text/html"}}),
    "413 batch": ("GET", "/sample?n=9", {"headers": KEY}),
    "413 body": ("POST", "/decode", sent(b" " * 20_001, JSON)),
    "415": ("POST", "/decode", sent(b"x", PNG)),
    "422": ("POST", "/decode?scale=0", sent(b"[1, 2]", JSON)),
    "422 inference": ("POST", "/v2/models/mnist/infer", {"json": {"inputs": []}, "headers": KEY}),
}
SETTINGS = {
    "api_keys": "key",
    "batch_limit": "8",
    "body_limit": "20000",
    "cors_origins": "https://a.example",
    "log_level": "warning",
    "metrics": "key",
}


@contextmanager
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(f"VAE_{name.upper()}", value)
        yield


@contextmanager
def in_thread(serve: Callable[[socket.socket], None], stop: Callable[[], object]) -> Iterator[httpx.Client]:
    """Run a server on a free port in a thread; yield a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve, args=(listener,))
        thread.start()
        try:
            base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=base_url, timeout=30, trust_env=False) as client:
                yield client
        finally:
            stop()
            thread.join()


@contextmanager
def under_uvicorn() -> Iterator[tuple[httpx.Client, Application]]:
    config = uvicorn.Config("service.app:create_app", factory=True, log_config=None, proxy_headers=False)
    with environment():
        config.load()
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    with in_thread(lambda listener: server.run([listener]), stop) as client:
        wait_until(lambda: server.started)
        yield client, config.loaded_app


@contextmanager
def under_hypercorn() -> Iterator[tuple[httpx.Client, Application]]:
    with environment():
        wrapped: Any = load_application("service.app:create_app()", 0)
    app = wrapped.app
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    def run(listener: socket.socket) -> None:
        config = Config()
        config.bind = [f"fd://{os.dup(listener.fileno())}"]  # it closes its own
        loop.run_until_complete(serve(app, config, shutdown_trigger=stopping.wait, mode="asgi"))
        loop.close()

    with in_thread(run, lambda: loop.call_soon_threadsafe(stopping.set)) as client:
        yield client, app


@contextmanager
def under_testclient() -> Iterator[tuple[Any, Application]]:
    with environment():
        app = create_app()
    for _ in range(2):  # the lifespan may run again, on another event loop
        with TestClient(app) as client:
            assert client.get("/sample?n=4", headers=KEY).status_code == 200
    with TestClient(app, follow_redirects=False) as client:
        yield client, app


@pytest.fixture(scope="module", params=[under_uvicorn, under_hypercorn, under_testclient])
def other(request: pytest.FixtureRequest) -> Iterator[tuple[httpx.Client, Application]]:
    """A client of the service under another server, and the application."""
    server: AbstractContextManager[tuple[httpx.Client, Application]] = request.param()
    with server as (client, app):
        yield client, app


@pytest.fixture(scope="module")
def own() -> Iterator[Running]:
    with running(**SETTINGS) as service:
        yield service


def fields(response: httpx.Response) -> list[tuple[str, str]]:
    return sorted((name, value) for name, value in response.headers.multi_items() if name not in OF_THE_SERVER)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_response_is_that_of_vae_serve(own: Running, other: tuple[httpx.Client, Application], name: str) -> None:
    method, path, request = REQUESTS[name]
    client, _ = other
    expected, response = own.client.request(method, path, **request), client.request(method, path, **request)
    status = int(name[:3]) if name[:3].isdigit() else 200
    assert (response.status_code, expected.status_code) == (status, status)
    assert response.content == expected.content
    assert fields(response) == fields(expected)
    assert response.headers["x-request-id"]
    assert ("server-timing" in response.headers) == ("server-timing" in expected.headers)


def test_a_body_of_unknown_length(own: Running, other: tuple[httpx.Client, Application]) -> None:
    def pieces(size: int) -> Iterator[bytes]:
        yield b"[0, 0, "
        yield b"0]".ljust(size)

    client, _ = other
    for size, status in ((2, 200), (20_000, 413)):
        for each in (own.client, client):
            answer = each.post("/decode", content=pieces(size), headers={**KEY, "content-type": JSON})
            assert answer.status_code == status


def test_metrics_count_requests_by_route(other: tuple[httpx.Client, Application]) -> None:
    client, _ = other
    client.get("/v2/models/other", headers=KEY)
    text = client.get("/metrics", headers=KEY).text
    assert 'route="/v2/models/{name}",status="404",version=""} ' in text
    assert 'vae_model_info{architecture="mlp"' in text


def test_what_is_draining_refuses(other: tuple[httpx.Client, Application]) -> None:
    client, app = other
    app.api.state.access_control.admission.status = "draining"
    try:
        assert client.get("/readyz").status_code == 503
        answer = client.get("/model", headers=KEY)
    finally:
        app.api.state.access_control.admission.status = "ok"
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_server_that_leaves_out_what_asgi_lets_it(other: tuple[httpx.Client, Application]) -> None:
    """Neither `raw_path` nor `client`; a root path, below which the service is."""
    _, app = other
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    for path, status in (("/vae/livez", 200), ("/vae/v2/nowhere", 404)):
        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "root_path": "/vae", "headers": []}
        asyncio.run(app({**scope, "query_string": b""}, receive, send))
        assert sent[-2]["status"] == status
    assert json.loads(sent[-1]["body"]).keys() == {"error"}


def test_operations_below_a_root_path_are_dispatched_without_fastapi(
    other: tuple[httpx.Client, Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, app = other
    statuses: list[int] = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    monkeypatch.setattr(app, "_dispatch_starlette", lambda *_: pytest.fail("Starlette was asked."))
    scope = {"type": "http", "method": "GET", "path": "/vae/model", "root_path": "/vae", "query_string": b""}
    asyncio.run(app({**scope, "headers": []}, None, send))  # type: ignore[arg-type]  # nothing is received
    assert statuses[0] == 401  # no key is sent


def test_a_wrong_variable_stops_the_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_PROT", "8000")
    with pytest.raises(SettingsError, match="did you mean VAE_PORT"):
        create_app()


def test_without_a_lifespan_the_service_is_starting() -> None:
    client = TestClient(create_app())
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").json() == {"status": "starting"}
    assert "The service is starting" in client.get("/model").json()["detail"]
