"""Statuses 401, 404, 405, 406 and 415: keys, routes, methods and media types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.app import QUERIES
from service.settings import BUNDLED
from tests.service.api.requests import (
    EVERY_LOCKED,
    FORM,
    IMAGE_ROUTES,
    JSON,
    LOCKED,
    NPY,
    OPEN,
    PNG,
    POST_ROUTES,
    ROUTES,
    post,
)
from tests.service.problems import problem
from tests.service.running import Running, running

# 401.


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with running(api_keys=("first-key", "second-key"), metrics="key") as service:
        yield service


@pytest.mark.parametrize(("method", "path"), EVERY_LOCKED)
def test_every_operation_asks_for_the_key(locked: Running, method: str, path: str) -> None:
    answer = locked.client.request(method, path)
    assert answer.status_code == 401
    assert "requires an API key" in answer.text
    assert answer.headers["www-authenticate"] == 'Bearer realm="vae-service"'


def test_a_route_is_open_or_asks_for_the_key(locked: Running) -> None:
    """One that is new has to be put on a list."""
    paths = [getattr(route, "path", "") for route in locked.app.routes]
    assert sorted(paths) == sorted([*OPEN, *LOCKED, *QUERIES])


def test_keys_of_a_file_are_asked_for_too(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("third-key\n")
    with running(api_keys_file=tmp_path / "keys") as service:
        problem(service.client.get("/model"), 401)
        assert service.client.get("/model", headers={"x-api-key": "third-key"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer first-ke"},
        {"authorization": "Bearer first-key,second-key"},
        {"authorization": "Basic first-key"},
        {"authorization": "first-key"},
        {"authorization": "Bearer"},
        {"x-api-key": "FIRST-KEY"},
        {"x-api-key": ""},
        {"x-api-key": "clé"},
    ],
)
def test_wrong_keys(locked: Running, headers: dict[str, str]) -> None:
    raw = {name.encode(): value.encode() for name, value in headers.items()}
    answer = locked.client.get("/model", headers=raw)
    assert "x-api-key: KEY" in problem(answer, 401)["detail"]
    assert answer.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer first-key"},
        {"authorization": "bearer  second-key"},
        {"x-api-key": "second-key"},
    ],
)
def test_right_keys(locked: Running, headers: dict[str, str]) -> None:
    assert locked.client.get("/model", headers=headers).status_code == 200


@pytest.mark.parametrize("path", sorted(OPEN - {"/web", "/static-offline-docs"}))
def test_open_without_a_key(locked: Running, path: str) -> None:
    assert locked.client.get(path).status_code == 200


def test_no_key_is_asked_for_where_there_is_nothing(locked: Running) -> None:
    problem(locked.client.get("/nothing"), 404)


# 404 and 405.


@pytest.mark.parametrize("path", ["/nothing", "/encode/more", "/web/nothing.js", "/web/../app.py", "/%ff%00"])
def test_unknown_routes(client: httpx.Client, path: str) -> None:
    assert "/docs lists all routes" in problem(client.get(path), 404)["detail"]


@pytest.mark.parametrize("target", ["/nothing", "/encode/", "/docs/", "/web", "a file", "/static-offline-docs"])
def test_what_is_said_of_a_host_is_not_repeated(served: Running, target: str) -> None:
    if target == "a file":
        target = "/" + re.findall(r"web/[^\"]+\.js", served.client.get("/").text)[0] + "/"
        assert served.client.get(target.removesuffix("/")).status_code == 200
    answer = served.exchange(f"GET {target} HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] == b"404"
    assert b"evil" not in answer
    assert f"There is no {target} here".encode() in answer


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_wrong_methods(client: httpx.Client, method: str, path: str) -> None:
    wrong, allow = ("GET", "POST") if method == "POST" else ("POST", "GET, HEAD")
    if path in QUERIES:
        wrong, allow = "PUT", "GET, HEAD, POST"
    answer = client.request(wrong, path)
    assert problem(answer, 405)["detail"] == f"{path} does not take {wrong}; it takes {allow}."
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/livez", "/readyz"])
def test_nothing_else_is_posted_to(client: httpx.Client, path: str) -> None:
    answer = client.post(path)
    problem(answer, 405)
    assert "GET" in answer.headers["allow"]


def test_no_latents_came_with_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "alone.safetensors").write_bytes(BUNDLED.read_bytes())
    with running(checkpoint=tmp_path / "alone.safetensors") as service:
        assert "has no latents" in problem(service.client.get("/latents"), 404)["detail"]


# 406 and 415.


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("accept", ["text/html", "image/webp, text/*", "*/*;q=0", "image/png;q=0, application/*;q=0"])
def test_nothing_acceptable(client: httpx.Client, method: str, path: str, accept: str) -> None:
    detail = problem(client.request(method, path, headers={"accept": accept}), 406)["detail"]
    assert accept in detail
    assert JSON in detail


def test_not_every_route_gives_every_type(client: httpx.Client) -> None:
    for method, path in (("POST", "/encode"), ("GET", "/latents"), ("GET", "/model")):
        problem(client.request(method, path, headers={"accept": PNG}), 406)


@pytest.mark.parametrize("path", POST_ROUTES)
@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream", "image/tiff", "image/svg+xml"])
def test_content_types_that_are_not_taken(client: httpx.Client, path: str, content_type: str) -> None:
    detail = problem(post(client, path, b"x", content_type), 415)["detail"]
    assert content_type in detail
    assert (JSON if path not in IMAGE_ROUTES else PNG) in detail


def test_a_body_without_content_type(client: httpx.Client) -> None:
    assert "no content type" in problem(client.post("/encode", content=b"x"), 415)["detail"]


def test_content_types_of_other_routes(client: httpx.Client) -> None:
    for path, content_type in (("/encode", JSON), ("/decode", PNG), ("/interpolate", NPY), ("/traverse", FORM)):
        problem(post(client, path, b"x", content_type), 415)
