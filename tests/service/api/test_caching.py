"""Header fields for caches (RFC 9111): what a response depends on, and whether it may be stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.app import INFERENCE, OPERATIONS
from tests.service.pictures import Bytes, png
from tests.service.running import Broken, Running, running

LOCKED = {"x-api-key": "key"}
TAGGED = ("/latents", "/model")
"""Those that have an ETag without parameters; test_etags.py has the others."""
TENSOR = {"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [0.1, -0.2, 0.3]}
JSON: dict[str, Any] = {
    "/decode": [0, 0, 0],
    "/interpolate": {"from": [0, 0, 0], "to": [1, 1, 1]},
    "/traverse": {"at": [0, 0, 0], "dimensions": [0]},
    "/v2/repository/index": {},
}


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with running(api_keys=("key",), metrics="key") as service:
        yield service


def ask(client: httpx.Client, path: str, images: Bytes, query: str = "", **headers: str) -> httpx.Response:
    method, _ = {**OPERATIONS, **INFERENCE}[path]
    url = path.format(name="mnist", version="1") + query
    if path in JSON:
        return client.request(method, url, json=JSON[path], headers=headers)
    if path.endswith("infer"):
        return client.request(method, url, json={"inputs": [TENSOR]}, headers=headers)
    if path == "/remote/decode":
        shape = "&shape=1&shape=3" if query else "?shape=1&shape=3"
        return client.request(method, url + shape, content=bytes(12), headers=headers)
    if method == "POST":
        return client.request(method, url, content=png(images[0]), headers={"content-type": "image/png", **headers})
    return client.request(method, url, headers=headers)


def caching(answer: httpx.Response) -> tuple[list[str], list[str]]:
    return answer.headers.get_list("vary"), answer.headers.get_list("cache-control")


@pytest.mark.parametrize("path", OPERATIONS)
def test_what_is_negotiated_says_so(client: httpx.Client, locked: Running, images: Bytes, path: str) -> None:
    """The errors too: with another Accept header there is an answer."""
    offered = ask(client, path, images)
    refused = ask(client, path, images, accept="text/html")
    assert (offered.status_code, refused.status_code) == (200, 406)
    assert caching(offered) == (["accept"], ["no-cache"] if path in TAGGED else [])
    assert caching(refused) == (["accept"], [])
    for headers, status in ((LOCKED, 200), ({**LOCKED, "accept": "text/html"}, 406), ({}, 401)):
        answer = ask(locked.client, path, images, **headers)
        assert answer.status_code == status
        is_tagged = path in TAGGED and status == 200
        assert caching(answer) == (["accept"], ["private, no-cache" if is_tagged else "no-store"])


@pytest.mark.parametrize("path", INFERENCE)
def test_what_is_not_negotiated(client: httpx.Client, locked: Running, images: Bytes, path: str) -> None:
    answer = ask(client, path, images)
    assert (answer.status_code, caching(answer)) == (200, ([], []))
    for headers, status in ((LOCKED, 200), ({}, 401)):
        answer = ask(locked.client, path, images, **headers)
        assert (answer.status_code, caching(answer)) == (status, ([], ["no-store"]))


def test_other_errors(client: httpx.Client, images: Bytes) -> None:
    wrong = ask(client, "/sample", images, "?n=-1")
    assert (wrong.status_code, caching(wrong)) == (422, (["accept"], []))
    with running(api_keys=("key",)) as service:
        service.swap_engine(Broken)
        failed = ask(service.client, "/decode", images, **LOCKED)
        assert (failed.status_code, caching(failed)) == (500, (["accept"], ["no-store"]))


def test_routes_outside_the_api_that_ask_for_a_key(client: httpx.Client, locked: Running) -> None:
    for path, without in (("/metrics", []), ("/web/spread.json", ["no-cache"])):
        assert caching(client.get(path)) == ([], without)
        for headers, status in ((LOCKED, 200), ({}, 401)):
            answer = locked.client.get(path, headers=headers)
            assert (answer.status_code, caching(answer)) == (status, ([], ["no-store"]))


@pytest.mark.parametrize("path", ["/", "/livez", "/docs", "/nowhere"])
def test_what_is_open_is_no_different_with_keys(client: httpx.Client, locked: Running, path: str) -> None:
    assert caching(client.get(path)) == caching(locked.client.get(path))


def test_an_origin_is_added_to_vary() -> None:
    with running(cors_origins=("https://a.example",)) as service:
        for headers in ({"origin": "https://a.example"}, {"origin": "https://b.example"}, {}):
            for accept in ("*/*", "text/html"):
                answer = service.client.get("/model", headers={**headers, "accept": accept})
                assert answer.headers["vary"] == "accept, Origin"
