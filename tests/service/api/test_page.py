"""The page's files and what stands around them."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest

from service.api import page
from tests.service.problems import problem
from tests.service.running import Running, running

ASSET = re.compile(r'"(web/[0-9a-f]{16}/[a-z]+\.[a-z]+)"')
KEPT = "public, max-age=31536000, immutable"


def test_the_page_is_asked_for_again_and_its_files_are_kept(client: httpx.Client) -> None:
    index = client.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert index.headers["cache-control"] == "no-cache"
    again = client.get("/", headers={"if-none-match": index.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"if-none-match": '"other"'}).status_code == 200
    paths = ASSET.findall(index.text)
    assert {Path(path).name for path in paths} >= {"style.css", "main.js", "walk.js", "icon.svg"}
    for path in paths:
        answer = client.get(f"/{path}")
        assert answer.headers["cache-control"] == KEPT, path
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "accept-encoding"
        assert answer.headers["x-content-type-options"] == "nosniff"
        plain = client.get(f"/{path}", headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == answer.content


@pytest.mark.parametrize(
    ("accept_encoding", "packed"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("*", True),
        ("br, *;q=0.1", True),
        ("br;q=1.0, gzip;q=0.001", True),
        ("identity, gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("", False),
        ("br", False),
        ("notgzip", False),
        ("gzip2", False),
        ("br;x=gzip", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0, *", False),
        ("gzip;q=2", False),
        ("*;q=0", False),
        ("gzip;q=0.5, identity", False),
        ("gzip," * 10_000, False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_which_codings_are_taken_for_gzip(client: httpx.Client, accept_encoding: str, packed: bool) -> None:
    for path in ("/", "/" + next(path for path in ASSET.findall(client.get("/").text) if path.endswith("style.css"))):
        answer = client.get(path, headers={"accept-encoding": accept_encoding})
        assert answer.headers.get("content-encoding") == ("gzip" if packed else None)
        assert answer.headers["vary"] == "accept-encoding"


def test_no_compression_where_none_is_asked_for(served: Running) -> None:
    plain = served.exchange(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert b"content-encoding" not in plain
    lines = b"accept-encoding: br\r\naccept-encoding: gzip\r\n"
    assert b"content-encoding: gzip" in served.exchange(
        b"GET / HTTP/1.1\r\nhost: a\r\n%bconnection: close\r\n\r\n" % lines
    )


def test_other_content_has_another_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for file in page.WEB.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(page, "WEB", tmp_path)
    before = page.read_page.__wrapped__()
    assert _paths(before) == _paths(page.read_page())
    (tmp_path / "walk.js").write_text("// other")
    assert not _paths(before) & _paths(page.read_page.__wrapped__()) - {"/spread.json"}


def _paths(read: page.Page) -> set[str]:
    return {route.path for route in read.files}


@pytest.mark.parametrize("path", ["/web/walk.js", "/web/0123456789abcdef/walk.js", "/web/index.html", "/web/page.py"])
def test_nothing_lies_elsewhere(client: httpx.Client, path: str) -> None:
    problem(client.get(path), 404)


def test_the_page_may_do_nothing_that_it_need_not(client: httpx.Client) -> None:
    headers = client.get("/").headers
    policy = dict(directive.split(" ", 1) for directive in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "script-src" not in policy
    assert "style-src" not in policy
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


def test_how_the_latents_are_spread(client: httpx.Client) -> None:
    mean = np.array(client.get("/latents").json()["mean"])
    found = client.get("/web/spread.json").json()
    for name, expected in (
        ("low", mean.min(0)),
        ("high", mean.max(0)),
        ("mean", mean.mean(0)),
        ("deviation", mean.std(0)),
    ):
        assert np.allclose(found[name], expected), name
    for column, counts in zip(mean.T, found["histogram"], strict=True):
        assert counts == np.histogram(column, len(counts))[0].tolist()


def test_the_page_starts_near_the_middle_of_the_most_compact_class(client: httpx.Client) -> None:
    latents = client.get("/latents").json()
    mean, label = np.array(latents["mean"]), np.array(latents["label"])
    classes = [mean[label == name] for name in range(10) if (label == name).sum() >= len(label) / 20]
    compact = min(classes, key=lambda members: float(members.var(0).sum()))
    nearest = compact[np.linalg.norm(compact - compact.mean(0), axis=1).argmin()]
    assert np.allclose(client.get("/web/spread.json").json()["start"], nearest, atol=0.005)


def test_a_class_of_one_member_is_not_the_start() -> None:
    body = orjson.dumps({"mean": [[9, 9], *([x, 0] for x in range(5))], "label": [7, 1, 1, 1, 1, 1]})
    assert orjson.loads(page._spread(body))["start"] == [2, 0]


def test_the_spread_is_for_those_who_have_a_key() -> None:
    with running(api_keys=("key",)) as service:
        problem(service.client.get("/web/spread.json"), 401)
        assert service.client.get("/web/spread.json", headers={"x-api-key": "key"}).status_code == 200
        assert service.client.get("/").status_code == 200


def test_there_may_be_no_latents(client: httpx.Client, served: Running) -> None:
    assert page._spread(None) == b"null"
