"""Requests that are too large, too many, or without end."""

from __future__ import annotations

import gzip
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import LiveServer
from tests.service.api.requests import (
    FORM,
    IMAGE_PART,
    JSON,
    PNG,
    form,
    post,
)
from tests.service.memory import LIMIT, growth_below
from tests.service.pictures import Bytes, png
from tests.service.problems import problem
from tests.service.running import Running, running, wait_until
from tests.zstandard import zstd

Z = b"[0.5, -1, 2]"


@pytest.fixture(scope="module")
def capped() -> Iterator[Running]:
    with running(body_limit=LIMIT) as service:
        yield service


def one_form(size: int, digit: bytes) -> bytes:
    bare = form((IMAGE_PART, digit))
    return form((IMAGE_PART, digit + bytes(size - len(bare))))


@pytest.mark.parametrize("way", ["content-length", "chunked", "gzip", "zstd"])
@pytest.mark.parametrize("kind", [JSON, PNG, f"{FORM}; boundary=b"])
def test_the_limit_is_the_limit_for_every_shape_of_body(capped: Running, images: Bytes, way: str, kind: str) -> None:
    digit = png(images[0])
    for size, status in ((LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413)):
        bodies = {JSON: Z.ljust(size), PNG: digit.ljust(size, b"\0")}
        body = bodies.get(kind) or one_form(size, digit)
        assert len(body) == size
        sent: dict[str, Any] = {
            "content-length": body,
            "chunked": (body[start : start + 9973] for start in range(0, size, 9973)),
            "gzip": gzip.compress(body),
            "zstd": zstd.compress(body),
        }
        coding = {"content-encoding": way} if way in ("gzip", "zstd") else {}
        answer = post(capped.client, "/decode" if kind == JSON else "/encode", sent[way], kind, **coding)
        assert answer.status_code == status, (size, answer.text)


CHUNKED = (
    b"POST /decode HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n%b\r\n7\r\n[0,0,0]\r\n"
)
A_JSON = b"content-type: application/json\r\n"


def test_a_body_without_end(live: LiveServer) -> None:
    """Its length is unknown; what exceeds the limit is not kept."""
    with growth_below(live.process.pid, 100), socket.create_connection(("127.0.0.1", live.port)) as connection:
        connection.sendall(CHUNKED % A_JSON)
        with suppress(ConnectionError):
            for _ in range(300):
                connection.sendall(b"f4240\r\n" + b"[" * 1_000_000 + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_million_chunks_of_one_byte(live: LiveServer) -> None:
    head = (
        f"POST /decode HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked"
    )
    with (
        growth_below(live.process.pid, 50),
        socket.create_connection(("127.0.0.1", live.port), timeout=60) as connection,
    ):
        connection.sendall(f"{head}\r\n\r\n".encode())
        for _ in range(100):
            connection.sendall(b"1\r\n[\r\n" * 10_000)
        connection.sendall(b"0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("begun", "flood"),
    [(b"0\r\n", b"x: y\r\n" * 10_000), (b"0\r\nx: ", b"y" * 60_000), (b"1;x=", b"y" * 60_000)],
    ids=["trailers", "a trailer", "an extension of a chunk"],
)
def test_a_flood_behind_the_body(live: LiveServer, begun: bytes, flood: bytes) -> None:
    with (
        growth_below(live.process.pid, 30),
        socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection,
    ):
        connection.sendall(CHUNKED % A_JSON + begun)
        with suppress(ConnectionError):  # it hangs up in the midst of it
            for _ in range(1000):
                connection.sendall(flood)
            pytest.fail("All of it was taken.")


def test_what_follows_the_body_is_no_field_of_the_head(served: Running) -> None:
    """A proxy looks at the head alone."""
    assert served.exchange(CHUNKED % A_JSON + b"0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert served.exchange(CHUNKED % b"" + b"0\r\n" + A_JSON + b"\r\n").startswith(b"HTTP/1.1 415")


@pytest.mark.parametrize(
    "head", [IMAGE_PART, "content-disposition: form-data; name=image", 'content-disposition: form-data; name="x"']
)
def test_ten_thousand_parts(live: LiveServer, head: str) -> None:
    """And others are answered meanwhile."""
    body = form(*[(head, b"")] * 10_000)
    with httpx.Client(base_url=live.url, timeout=30) as client, growth_below(live.process.pid, 30):
        answer = post(client, "/encode", body, f"{FORM}; boundary=b")
        assert answer.status_code in (400, 422)
        answer = post(client, "/encode", form(*[(IMAGE_PART, b"")] * 10_001), f"{FORM}; boundary=b")
        assert "at most 10000" in problem(answer, 413)["detail"]


FLOODS = {
    "numbers": b"[" + b"0," * 3_000_000 + b"0]",
    "lists": b"[" + b"[]," * 3_000_000 + b"[]]",
    "fields": b"{" + b",".join(b'"%x":1' % i for i in range(300_000)) + b"}",
    "wrong numbers": b'{"from":[' + b'"",' * 300_000 + b'""],"to":[]}',
    "wrong dimensions": b'{"at":[0,0,0],"dimensions":[' + b'"",' * 40_000 + b'""]}',
    "wrong numbers, few enough": b'{"from":[' + b'"",' * 40_000 + b'""],"to":[]}',
}


@pytest.mark.parametrize("path", ["/decode", "/interpolate", "/traverse"])
@pytest.mark.parametrize("what", FLOODS)
def test_a_json_flood_stops_nobody(client: httpx.Client, path: str, what: str) -> None:
    answer = post(client, path, FLOODS[what], JSON)
    assert answer.status_code in (413, 422)
    assert answer.elapsed.total_seconds() < 2
    assert len(problem(answer, answer.status_code).get("errors", ())) <= 8


INFERENCES: dict[str, dict[str, Any]] = {
    "texts": {"data": ["x" * 100_000, *[""] * 1000]},
    "a text among numbers": {"data": [*[0] * 3000, "x" * 1_000_000]},
    "outputs": {"data": [0, 0, 0], "outputs": [{"name": "image"}] * 300_000},
    "sizes": {"shape": ["x"] * 300_000},
    "lists": {"data": [[0]] * 300_000},
    "numbers": {"data": [0] * 8_000_000},
}


@pytest.mark.parametrize("what", INFERENCES)
def test_an_inference_flood_stops_nobody(live: LiveServer, what: str) -> None:
    asked = {"name": "z", "datatype": "FP32", "shape": [1, 3], **INFERENCES[what]}
    outputs = asked.pop("outputs", [])
    with httpx.Client(base_url=live.url) as client, growth_below(live.process.pid, 150):
        answer = client.post("/v2/models/mnist/infer", json={"inputs": [asked], "outputs": outputs})
    assert answer.status_code in (413, 422)
    assert answer.elapsed.total_seconds() < 2


@pytest.mark.parametrize("path", ["/remote/encode", "/remote/decode"])
def test_a_shape_of_thousands_of_digits(client: httpx.Client, path: str) -> None:
    answer = post(client, f"{path}?shape={'9' * 4000}&shape={'9' * 4000}", b"x", "tensor/binary")
    assert "shape" in problem(answer, 422)["detail"]


# No descriptors left.


def test_without_descriptors_it_sheds_and_recovers(live: LiveServer) -> None:
    """As under `ulimit -n 128`."""
    probe = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
    pid, most = live.process.pid, 128

    def descriptors() -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    before, logged = descriptors(), len(live.log)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, limits[1]))
    try:
        with ExitStack() as stack:
            clients = []
            for _ in range(500):
                with suppress(ConnectionError):
                    clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", live.port), timeout=1)))
                    clients[-1].sendall(probe)
            answered = sum(map(is_answered, clients))
        assert most - before - 5 <= answered < most
        wait_until(lambda: is_well(live), limit=5)
        wait_until(lambda: descriptors() <= before)
        assert live.process.poll() is None
        assert "Traceback" not in live.log[logged:]
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def is_answered(client: socket.socket) -> bool:
    try:
        return client.recv(1000).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def is_well(server: LiveServer) -> bool:
    try:
        return server.get("/livez").status_code == 200
    except httpx.TransportError:
        return False
