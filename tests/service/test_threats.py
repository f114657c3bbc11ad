"""Attacks over a real socket that concern more than one module."""

from __future__ import annotations

import io
import pickle
import re
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import enumerate as enumerate_threads
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.api.offloading import LONG_S, PIXEL_S, THREADS
from service.formats.registry import ARRAY_FORMATS
from service.inference.engine import Engine
from tests.live import LiveServer
from tests.service.api.requests import (
    EVERY_LOCKED,
    EVERY_POST,
    FORM,
    IMAGE_PART,
    JSON,
    NPY,
    OPEN,
    PNG,
    Trap,
    chunk,
    form,
    post,
)
from tests.service.memory import growth_below
from tests.service.pictures import Bytes, npy, picture, png
from tests.service.problems import problem
from tests.service.running import Running, running

FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF"]
Z = b"[0.5, -1, 2]"


# A pickle, wherever a body may hold one.


@pytest.mark.parametrize("path", EVERY_POST)
@pytest.mark.parametrize(
    "content_type",
    [
        *(f"image/{name.lower()}" for name in FORMATS),
        f"{FORM}; boundary=b",
        JSON,
        "application/octet-stream",
        "application/x-pickle",
        "application/vnd.bentoml+pickle",
        *ARRAY_FORMATS,
        "application/x-ndjson",
        "tensor/binary",
        "",
    ],
)
def test_no_pickle_is_opened(client: httpx.Client, tmp_path: Path, path: str, content_type: str) -> None:
    target = tmp_path / "sprung"
    pickled = pickle.dumps(Trap(target))
    archive = io.BytesIO()
    np.savez(archive, image=np.array([Trap(target)]))
    for payload in (pickled, npy(np.array([Trap(target)])), archive.getvalue()):
        body = form((IMAGE_PART, payload)) if content_type.startswith(FORM) else payload
        answer = post(client, path, body, content_type)
        assert answer.status_code in (400, 415, 422)
        if not path.startswith("/v2"):  # whose errors have a form of their own
            problem(answer, answer.status_code)
    assert not target.exists()
    pickle.loads(pickled)
    assert target.exists()  # the trap is one


# An address, wherever a service might fetch something from.


def test_no_address_is_called(client: httpx.Client, served: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.3)
        address = f"http://127.0.0.1:{canary.getsockname()[1]}/x.png"
        text = address.encode()
        svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="%b"/></svg>' % text
        xml = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "%b">]><x>&e;</x>' % text
        linked = png(np.zeros((28, 28), np.uint8))[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xml)
        for path in EVERY_POST:
            for payload in (text, svg, xml, linked):
                for content_type in (PNG, JSON, NPY, "tensor/binary", "image/svg+xml", "text/uri-list"):
                    post(client, path, payload, content_type)
                parts = form(("content-disposition: form-data; name=image", payload), (IMAGE_PART, payload))
                post(client, path, parts, f"{FORM}; boundary=b")
            for name in ("url", "z", "image", "from", "callback", "$ref", "image_url", "checkpoint"):
                client.post(path, json={name: address})
                client.post(f"{path}?{name}={address}", content=Z, headers={"content-type": JSON})
        for _, path in EVERY_LOCKED:
            for name in ("url", "shape", "checkpoint"):
                client.get(f"{path}?{name}={address}")
        headers = ("referer", "origin", "forwarded", "x-forwarded-host", "x-callback-url", "link", "content-location")
        for path in (*OPEN, "/sample", "/metrics", "/v2/models/mnist"):
            for name in headers:
                client.get(path, headers={name: address})
        for target in (address, f"/{address}", f"/web/{address}", f"/docs?url={address}"):
            host = address.removeprefix("http://").removesuffix("/x.png")
            served.exchange(f"GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        with pytest.raises(TimeoutError):
            canary.accept()


# A bomb.


def test_a_bomb_is_refused_from_its_header(live: LiveServer) -> None:
    side = 20_000
    packer = zlib.compressobj(1)
    row = bytes(1 + side // 8)
    data = b"".join(packer.compress(row * 1000) for _ in range(side // 1000)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    with httpx.Client(base_url=live.url) as client, growth_below(live.process.pid, 10):
        answers = [post(client, path, bomb, PNG) for path in ("/encode", "/reconstruct", "/encode")]
    for answer in answers:
        assert "20000×20000" in problem(answer, 413)["detail"]
    assert max(answer.elapsed.total_seconds() for answer in answers) < 0.1


def test_large_pictures_are_decoded_a_few_at_a_time() -> None:
    photograph = picture(Image.new("RGB", (2400, 2400)), "JPEG")
    assert 2400**2 / 2 * PIXEL_S > LONG_S
    with running() as service, ThreadPoolExecutor(8) as pool:
        before = set(enumerate_threads())
        answers = pool.map(lambda _: post(service.client, "/encode", photograph, "image/jpeg"), range(16))
        assert {answer.status_code for answer in answers} == {200}
        added = [thread for thread in enumerate_threads() if thread not in before and thread.name.startswith("long")]
        assert 0 < len(added) <= THREADS


# A picture that is none, or hardly one.


def fits() -> bytes:
    cards = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    2"]
    cards += ["NAXIS1  =                   28", "NAXIS2  =                   28", "END"]
    return "".join(card.ljust(80) for card in cards).encode().ljust(2880) + bytes(2880)


@pytest.mark.parametrize("kind", [f"image/{name.lower()}" for name in FORMATS])
def test_other_formats_under_the_name_of_one_that_is_taken(client: httpx.Client, kind: str) -> None:
    grey = Image.new("L", (28, 28), 9)
    others = [picture(grey, name) for name in ("EPS", "TIFF", "PPM", "PCX", "SGI", "ICNS", "JPEG2000", "AVIF")]
    for other in (*others, fits()):
        with Image.open(io.BytesIO(other)):  # Pillow would
            assert "could be recognised" in problem(post(client, "/encode", other, kind), 400)["detail"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_flipped_bits(client: httpx.Client, images: Bytes, file_format: str) -> None:
    """A picture, or no picture: never a failure."""
    whole = picture(Image.fromarray(images[0]), file_format)
    random = np.random.default_rng(0)
    statuses = set()
    for position in [*range(min(len(whole), 60)), *random.integers(0, len(whole), 60).tolist()]:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << random.integers(8)
        answer = post(client, "/encode", bytes(flipped), PNG)
        statuses.add(answer.status_code)
        assert answer.status_code == 200 or problem(answer, answer.status_code)
    assert statuses <= {200, 400, 413}
    assert 400 in statuses


# A lie about the host, and about the path.


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with running(api_keys=("key",), metrics="key") as service:
        yield service


@pytest.mark.parametrize(
    "host", ["a/?x=", "a/livez?", "a/docs#", "a/web/", "[", "x\\", "a@b", "", "a b", "\xe9", "a, b", "a" * 300]
)
@pytest.mark.parametrize(("method", "path"), EVERY_LOCKED)
def test_no_host_opens_a_route(locked: Running, host: str, method: str, path: str) -> None:
    request = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode("latin-1")
    assert locked.exchange(request).split(b" ", 2)[1] in (b"400", b"401")


@pytest.mark.parametrize("head", ["X-Original-URL: /livez", "X-Rewrite-URL: /livez", "X-HTTP-Method-Override: HEAD"])
@pytest.mark.parametrize("target", ["/model", "http://x/model", "/%6dodel", "/livez/../model", "//model", "/model/"])
def test_no_other_way_of_writing_a_path_opens_it(locked: Running, target: str, head: str) -> None:
    answer = locked.exchange(f"GET {target} HTTP/1.1\r\nhost: x\r\n{head}\r\nconnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] in (b"401", b"404")
    assert b"sha256" not in answer


@pytest.mark.parametrize("host", ["a/?x=", "[", "\xe9"])
def test_no_host_is_a_failure(locked: Running, host: str) -> None:
    for target in ("/nothing", "/web", "/encode/", "/docs/", "/web/%00", "/%0d%0a"):
        request = f"GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode("latin-1")
        assert locked.exchange(request).split(b" ", 2)[1] in (b"400", b"404")


# What could forge a line of the log, or a field of the answer.

FORGED = "%0d%0a2026-01-01 00:00:00,000 INFO    all is well%1b[2J"


def test_nothing_forges_a_line(live: LiveServer) -> None:
    with httpx.Client(base_url=live.url) as client:
        for path in (f"/{FORGED}", f"/web/{FORGED}", f"/livez?{FORGED}", f"/sample?{FORGED}=1"):
            answer = client.get(path)
            assert "all is well" not in str(answer.headers)
        for name in ("a\x1b[2J", "a b", "a" * 1000, "é", "a;b"):
            answer = client.get("/livez", headers=[(b"x-request-id", name.encode())])
            assert name not in answer.headers.get("x-request-id", "")
            assert answer.status_code in (200, 400)
    raw = b"GET /livez HTTP/1.1\r\nhost: x\r\nx-request-id: a\rset-cookie: b\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
        connection.sendall(raw)
        assert b"set-cookie" not in b"".join(iter(lambda: connection.recv(65536), b""))
    time.sleep(0.3)
    assert "\x1b" not in live.log
    assert not re.search(r"^2026-01-01", live.log, re.MULTILINE)
    assert "all%20is%20well" in live.log


# What the response to a failure reveals.


class Failing(Engine):
    """Fails at everything, with a secret."""

    def __init__(self, engine: Engine) -> None:
        vars(self).update(vars(engine))

    async def _run(self, *_: object) -> Any:
        raise RuntimeError("secret /inside/engine.py line 7")


@pytest.fixture(scope="module")
def failing() -> Iterator[Running]:
    with running() as service:
        service.swap_engine(Failing)
        yield service


@pytest.mark.parametrize("accept", [JSON, NPY])
@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/encode", npy(np.zeros((28, 28), np.uint8)), NPY),
        ("/reconstruct", npy(np.zeros((2, 28, 28), np.uint8)), NPY),
        ("/decode", Z, JSON),
        ("/interpolate", b'{"from": [0, 0, 0], "to": [1, 1, 1]}', JSON),
        ("/traverse", b'{"at": [0, 0, 0], "dimensions": [0]}', JSON),
    ],
)
def test_a_failure_tells_nothing(failing: Running, path: str, body: bytes, kind: str, accept: str) -> None:
    answer = post(failing.client, path, body, kind, accept=accept)
    document = problem(answer, 500)
    assert document.keys() == {"type", "title", "status", "detail"}
    assert answer.headers["x-request-id"]
    sent = answer.text + str(answer.headers)
    for inside in ("secret", "Runtime", "Traceback", ".py", "/", "line", "torch", "numpy"):
        assert inside not in sent.replace(answer.headers["content-type"], "").replace("about:blank", "")


# A long query string.


@pytest.mark.parametrize("path", sorted({*OPEN, "/metrics"} - {"/web", "/static-offline-docs"}))
def test_no_query_string_is_parsed_where_none_is_wanted(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """One of 64 kB with 30,000 parameters takes 50 ms on the event loop."""

    def parse(*_: object, **__: object) -> list[tuple[str, str]]:
        raise AssertionError("It is parsed.")

    monkeypatch.setattr("starlette.datastructures.parse_qsl", parse)
    assert client.get(f"{path}?{'a&' * 30_000}").status_code == 200
