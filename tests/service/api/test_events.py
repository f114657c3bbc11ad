"""Server-sent events: the progress of a computation, and its result."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from service.api import events
from tests.service.pictures import npy
from tests.service.problems import problem
from tests.service.running import Running, running

EVENTS = "text/event-stream"
HEADERS = {"accept": EVENTS}
Z = [[0.1 * row, 0.0, 1.0] for row in range(150)]


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with running(compute="thread") as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Running) -> httpx.Client:
    return service.client


def read_events(answer: httpx.Response) -> list[tuple[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == EVENTS
    assert answer.headers["vary"] == "accept"
    assert answer.text.endswith("\n\n")
    blocks = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    assert all(name.startswith("event: ") and data.startswith("data: ") for name, data in blocks)
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


@pytest.mark.parametrize("accept", [EVENTS, "application/json;q=0.5, text/event-stream"])
def test_result_is_the_json_of_the_route(client: httpx.Client, accept: str) -> None:
    for path, sent in (("/decode", Z), ("/decode", Z[0])):
        *progress, (name, result) = read_events(client.post(path, json=sent, headers={"accept": accept}))
        total = 3 if sent is Z else 1
        assert progress[-1] == ("progress", {"done": total, "total": total})
        assert name == "result"
        assert result == client.post(path, json=sent, headers={"accept": "application/json"}).json()


@pytest.mark.parametrize("path", ["/encode", "/reconstruct"])
def test_images(client: httpx.Client, path: str) -> None:
    content = npy(np.random.default_rng(0).random((2, 28, 28), np.float32))
    asked = {accept: {"accept": accept, "content-type": "application/x-npy"} for accept in ("application/json", EVENTS)}
    plain, followed = (client.post(path, content=content, headers=headers) for headers in asked.values())
    assert read_events(followed)[-1] == ("result", plain.json())


def test_other_requests_and_routes_are_as_before(client: httpx.Client) -> None:
    for accept in ("*/*", "image/png, text/event-stream;q=0.1"):
        answer = client.post("/decode", json=Z[0], headers={"accept": accept})
        assert answer.headers["content-type"] == "image/png"
    problem(client.get("/sample", headers=HEADERS), 406)


def test_small_requests_on_the_fast_path() -> None:
    with running() as service:
        for _ in range(3):
            accept = {"accept": "application/json;q=0.5, text/event-stream"}
            assert read_events(service.client.post("/decode", json=Z[0], headers=accept))[-1][0] == "result"


def test_wrong_requests_have_their_status(client: httpx.Client) -> None:
    problem(client.post("/decode", json=[1, 2], headers=HEADERS), 422)
    problem(client.post("/decode", content=b"{", headers=HEADERS | {"content-type": "text/plain"}), 415)


def test_a_late_error_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUICK_S", 0.01)
    with running(compute="thread", request_deadline=0.2) as service, pytest.MonkeyPatch.context() as patch:
        released = asyncio.Event()

        async def stall(*_: object, **__: object) -> None:
            await released.wait()

        patch.setattr(service.context.engine, "decode", stall)
        ((name, document),) = read_events(service.client.post("/decode", json=Z, headers=HEADERS))
    assert name == "error"
    assert document["status"] == 504


def test_the_computation_ends_with_the_connection(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = []

    async def stall(*_: object, **__: object) -> None:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    monkeypatch.setattr(service.context.engine, "decode", stall)
    with pytest.raises(httpx.ReadTimeout):
        service.client.post("/decode", json=Z, headers=HEADERS, timeout=1)
    service.wait_for(0)
    assert cancelled


def test_proxies_keep_the_connection_open(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = service.context.engine
    decode = engine.decode

    async def wait(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0.4)
        return await decode(*arguments, **options)

    monkeypatch.setattr(engine, "decode", wait)
    for name, value in (("QUICK_S", 0.01), ("POLL_S", 0.05), ("KEEP_ALIVE_S", 0.1)):
        monkeypatch.setattr(events, name, value)
    answer = service.client.post("/decode", json=Z, headers=HEADERS)
    assert answer.text.startswith(":\n\n")
    assert "event: result" in answer.text
