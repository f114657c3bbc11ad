"""What strangers may try, over a real socket. What only one module is tried with stands in that module's tests."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import resource
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import zstandard
from PIL import Image

from service.api.offloading import THREADS
from service.formats.registry import ARRAY_FORMATS
from service.inference.engine import Engine
from tests.live import LiveServer, live_server
from tests.service.api.test_errors import (
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
)
from tests.service.pictures import Bytes, npy, picture, png
from tests.service.problems import problem
from tests.service.running import Running, running, wait_until

FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF"]
LIMIT = 100_000
Z = b"[0.5, -1, 2]"


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    """A process of its own, whose memory can be seen."""
    with live_server() as server:
        for _ in range(3):  # what is taken once and kept
            httpx.post(f"{server.url}/encode", content=png(np.zeros((28, 28), np.uint8)), headers={"content-type": PNG})
        yield server


@pytest.fixture(scope="module")
def capped() -> Iterator[Running]:
    with running(body_limit=LIMIT) as service:
        yield service


def post(client: httpx.Client, path: str, body: Any, content_type: str, **headers: str) -> httpx.Response:
    return client.post(path, content=body, headers={"content-type": content_type, **headers})


def megabytes(pid: int, what: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


@contextmanager
def growth_below(pid: int, limit: float) -> Iterator[None]:
    """Of a process's memory, at its peak, megabytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # forget the peak
    before = megabytes(pid, "VmRSS")
    yield
    assert megabytes(pid, "VmHWM") - before < limit


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
    side = 50_000
    packer = zlib.compressobj(1)
    row = bytes(1 + side // 8)
    data = b"".join(packer.compress(row * 1000) for _ in range(side // 1000)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    with httpx.Client(base_url=live.url) as client, growth_below(live.process.pid, 10):
        answers = [post(client, path, bomb, PNG) for path in ("/encode", "/reconstruct", "/encode")]
    for answer in answers:
        assert "50000×50000" in problem(answer, 413)["detail"]
    assert max(answer.elapsed.total_seconds() for answer in answers) < 0.1


def test_large_pictures_are_decoded_a_few_at_a_time() -> None:
    photograph = picture(Image.new("RGB", (4000, 4000)), "JPEG")
    with (
        live_server() as server,
        httpx.Client(base_url=server.url, timeout=20) as client,
        ThreadPoolExecutor(12) as pool,
    ):
        threads = Path(f"/proc/{server.process.pid}/task")

        def added(image: bytes) -> int:
            before = len(list(threads.iterdir()))
            answers = pool.map(lambda _: post(client, "/encode", image, "image/jpeg"), range(24))
            assert {answer.status_code for answer in answers} == {200}
            return len(list(threads.iterdir())) - before

        added(picture(Image.new("L", (28, 28)), "JPEG"))  # those that compute
        assert 0 < added(photograph) <= 2 * THREADS


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
    for position in [*range(min(len(whole), 100)), *random.integers(0, len(whole), 100).tolist()]:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << random.integers(8)
        answer = post(client, "/encode", bytes(flipped), PNG)
        statuses.add(answer.status_code)
        assert answer.status_code == 200 or problem(answer, answer.status_code)
    assert statuses <= {200, 400, 413}
    assert 400 in statuses


# A flood.


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
            "zstd": zstandard.compress(body),
        }
        coding = {"content-encoding": way} if way in ("gzip", "zstd") else {}
        answer = post(capped.client, "/decode" if kind == JSON else "/encode", sent[way], kind, **coding)
        assert answer.status_code == status, (size, answer.text)


CHUNKED = (
    b"POST /decode HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n%b\r\n7\r\n[0,0,0]\r\n"
)
A_JSON = b"content-type: application/json\r\n"


def test_a_body_without_end(live: LiveServer) -> None:
    """It tells no length; what is over the limit is not kept."""
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


# No descriptors left.


def test_without_descriptors_it_sheds_and_recovers() -> None:
    """As under `ulimit -n 128`."""
    probe = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
    with live_server("--log-level", "error") as server:

        def descriptors() -> int:
            return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))

        before, most = descriptors(), 128
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (most, most))
        with ExitStack() as stack:
            callers = []
            for _ in range(500):
                with suppress(ConnectionError):
                    callers.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=1)))
                    callers[-1].sendall(probe)
            answered = sum(map(is_answered, callers))
        assert most - before - 5 <= answered < most
        begun = time.monotonic()
        wait_until(lambda: is_well(server), limit=5)
        assert time.monotonic() - begun < 5
        wait_until(lambda: descriptors() <= before)
        assert server.process.poll() is None
        assert "Traceback" not in server.log


def is_answered(caller: socket.socket) -> bool:
    try:
        return caller.recv(1000).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def is_well(server: LiveServer) -> bool:
    try:
        return server.get("/livez").status_code == 200
    except httpx.TransportError:
        return False


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


# What a failure tells.


class Failing(Engine):
    """Fails at everything, with a secret."""

    def __init__(self, engine: Engine) -> None:
        vars(self).update(vars(engine))

    async def _run(self, *_: object) -> Any:
        raise RuntimeError("secret /inside/engine.py line 7")


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
def test_a_failure_tells_nothing(path: str, body: bytes, kind: str, accept: str) -> None:
    with running() as service:
        service.swap_engine(Failing)
        answer = post(service.client, path, body, kind, accept=accept)
    document = problem(answer, 500)
    assert document.keys() == {"type", "title", "status", "detail"}
    assert answer.headers["x-request-id"]
    told = answer.text + str(answer.headers)
    for inside in ("secret", "Runtime", "Traceback", ".py", "/", "line", "torch", "numpy"):
        assert inside not in told.replace(answer.headers["content-type"], "").replace("about:blank", "")


# A huge number.

TEN_TO_18 = 10**18
WALK = '{"from": [0, 0, 0], "to": [1, 1, 1], "steps": %s}'
LINE = '{"at": [0, 0, 0], "dimensions": %s, "low": %s, "high": %s, "steps": %s}'


@pytest.mark.parametrize(
    ("name", "least", "most", "over"),
    [
        ("n", 1, 20, 413),
        ("seed", 0, 2**64 - 1, 422),
        ("temperature", 0, 100, 422),
        ("columns", 1, 10_000, 422),
        ("scale", 1, 64, 422),
    ],
)
def test_bounds_of_the_query(capped_batch: Running, name: str, least: int, most: int, over: int) -> None:
    def status(value: object) -> int:
        answer = capped_batch.client.get(f"/sample?{name}={value}")
        if answer.status_code == 413:
            assert f"at most {most} " in problem(answer, 413)["detail"]
        elif answer.status_code != 200:
            assert name in problem(answer, 422)["detail"]
        return answer.status_code

    wanted = {-1: 422, 0: 200 if least == 0 else 422, least: 200, most: 200, most + 1: over, 10**25: over}
    wanted[TEN_TO_18] = 200 if most > TEN_TO_18 else over
    assert {value: status(value) for value in wanted} == wanted
    for value in ("1e400", "-1e400", "nan", "inf", "0x10", "１", "", "1_0", "1;2", "[1]", "true"):
        assert status(value) in ((200, 422) if value in ("1_0", "true") else (422,)), value


@pytest.fixture(scope="module")
def capped_batch() -> Iterator[Running]:
    with running(batch_limit=20) as service:
        yield service


@pytest.mark.parametrize(
    ("value", "status"),
    [(0, 422), (-1, 422), (1, 422), (2, 200), (20, 200), (21, 413), (TEN_TO_18, 413), ("1e400", 422), ("2.5", 422)],
)
def test_bounds_of_steps(capped_batch: Running, value: object, status: int) -> None:
    for path, body in (("/interpolate", WALK % value), ("/traverse", LINE % ("[0]", -1, 1, value))):
        answer = post(capped_batch.client, path, body, JSON, accept=JSON)
        assert answer.status_code == status
        if status == 422:
            assert "steps" in problem(answer, 422)["detail"]
        elif status == 413:
            assert "at most 20 " in problem(answer, 413)["detail"]


@pytest.mark.parametrize(
    ("value", "status"),
    [(-1, 200), (10**6, 200), (10**6 + 1, 422), (-(10**6) - 1, 422), (TEN_TO_18, 422), ("1e400", 422)],
)
def test_bounds_of_latents(client: httpx.Client, value: object, status: int) -> None:
    bodies = {
        "/decode": f"[0, 0, {value}]",
        "/interpolate": f'{{"from": [0, 0, {value}], "to": [0, 0, 0]}}',
        "/traverse": LINE % ("[0]", value, 10**6, 3),
    }
    for path, body in bodies.items():
        answer = post(client, path, body, JSON)
        assert answer.status_code == status
        said = "" if status == 200 else problem(answer, status)["detail"]
        assert status == 200 or any(bound in said for bound in ("1e+06", "1000000", "finite"))


@pytest.mark.parametrize(
    ("value", "status"), [("[0]", 200), ("[2]", 200), ("[3]", 422), ("[-1]", 422), (f"[{TEN_TO_18}]", 422)]
)
def test_bounds_of_dimensions(client: httpx.Client, value: str, status: int) -> None:
    assert post(client, "/traverse", LINE % (value, -1, 1, 2), JSON).status_code == status


def test_bounds_of_a_batch(capped_batch: Running) -> None:
    for count, status in ((20, 200), (21, 413)):
        assert capped_batch.client.post("/decode", json=[[0, 0, 0]] * count).status_code == status
        assert post(capped_batch.client, "/encode", npy(np.zeros((count, 28, 28))), NPY).status_code == status


# A neighbour in the same batch.


class Held:
    """Keeps an engine from computing until it is let go, and counts the items that it computes."""

    def __init__(self, service: Running) -> None:
        engine = service.app.state.model_context.engine
        compute: Callable[..., Any] = engine._compute
        self.batches: list[int] = []
        self.released = Event()

        def watched(operation: object, items: Sequence[object], *rest: object) -> Any:
            self.batches.append(len(items))
            self.released.wait(20)
            return compute(operation, items, *rest)

        engine._compute = watched


def decode(service: Running) -> httpx.Response:
    return post(service.client, "/decode", Z, JSON)


def busy(service: Running, pool: ThreadPoolExecutor) -> Held:
    """The engine, at work on one item."""
    held = Held(service)
    pool.submit(decode, service)
    while not held.batches:
        time.sleep(0.002)
    return held


def test_a_bad_item_spoils_no_other() -> None:
    bodies = [json.dumps([i / 7, -i / 9, i / 11]) for i in range(31)]
    bad = {"null": JSON, "[NaN, 0, 0]": JSON, "[1e39, 0, 0]": JSON, "\x93NUMPY": NPY}
    with running(compute="thread") as service, ThreadPoolExecutor(40) as pool:

        def ask(body: str) -> bytes:
            return post(service.client, "/decode", body, JSON).content

        alone = [ask(body) for body in bodies]
        assert len(set(alone)) == 31
        held = busy(service, pool)
        try:
            waiting = [pool.submit(ask, body) for body in bodies]
            for body, kind in bad.items():
                assert post(service.client, "/decode", body, kind).status_code in (400, 422)
            service.wait_for(in_flight=32)
        finally:
            held.released.set()
        assert [future.result() for future in waiting] == alone
    assert held.batches == [1, 31]


def test_a_row_that_the_model_makes_nan_of_spoils_no_other() -> None:
    with running(compute="thread", runtime="torch") as service, ThreadPoolExecutor(40) as pool:
        weights = service.app.state.model_context.engine._backend.model.state_dict()  # shared with the model
        weights["decoder.0.weight"][0] = torch.tensor([1e38, 0, 0])  # only a large first number gets through
        weights["decoder.0.bias"][0] = 0
        weights["decoder.2.weight"][:, 0] = 1e38

        def ask(z: list[float]) -> httpx.Response:
            return service.client.post("/decode", json=z)

        sound = [[0.0, i / 7, -i / 9] for i in range(31)]
        alone = [ask(z).content for z in sound]
        assert len(set(alone)) == 31
        held = busy(service, pool)
        try:
            waiting = [pool.submit(ask, z) for z in [[1000.0, 0, 0], *sound]]
            service.wait_for(in_flight=33)
        finally:
            held.released.set()
        unsound, *others = [future.result() for future in waiting]
        problem(unsound, 500)
        assert [answer.content for answer in others] == alone
        figures = service.client.get("/metrics").text
        assert 'vae_refusals_total{reason="unsound_output"} 2.0' in figures  # the one that was being computed is too
    assert held.batches == [1, 32]


# Nobody waits for it any more.


def test_what_is_too_late_is_not_computed() -> None:
    with running(compute="thread", request_deadline=0.5) as service, ThreadPoolExecutor(8) as pool:
        held = busy(service, pool)
        try:
            late = [pool.submit(decode, service) for _ in range(4)]
            assert [future.result().status_code for future in late] == [504] * 4
            service.wait_for(in_flight=0)
        finally:
            held.released.set()
        assert decode(service).status_code == 200
    assert held.batches == [1, 1]


def test_who_hangs_up_in_the_queue_is_not_computed_for() -> None:
    with running(compute="thread") as service, ThreadPoolExecutor(8) as pool:
        held = busy(service, pool)
        try:
            callers = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(4)]
            for caller in callers:
                head = f"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: {len(Z)}\r\n\r\n"
                caller.sendall(head.encode() + Z)
            service.wait_for(in_flight=5)
            for caller in callers:
                caller.close()
            service.wait_for(in_flight=1)
        finally:
            held.released.set()
        assert decode(service).status_code == 200
    assert held.batches == [1, 1]


# Those who send slowly.


@pytest.mark.parametrize("told", [b"content-length: 7", b"content-length: 90000", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("more", [b"", b"expect: 100-continue\r\n"])
def test_who_sends_slowly_keeps_nobody_out(told: bytes, more: bytes) -> None:
    head = b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n%b%b\r\n\r\n" % (more, told)
    with running(queue_limit=2, body_limit=LIMIT) as service, ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", service.port))) for _ in range(5)]
        for caller in slow:
            caller.sendall(head)
        service.wait_for(in_flight=5)
        assert [decode(service).status_code for _ in range(3)] == [200] * 3
        if told.endswith(b" 7"):
            slow[4].sendall(b"[0,0,0]")
            service.wait_for(in_flight=4)
            assert b"HTTP/1.1 200" in slow[4].recv(65536)


# One who takes all there is.


def test_a_greedy_key_does_not_push_a_polite_one_out() -> None:
    with running(queue_limit=6, api_keys=("greedy", "polite")) as service, ThreadPoolExecutor(8) as pool:
        over = Event()
        statuses: set[int] = set()

        def hog() -> None:
            with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client:
                while not over.is_set():
                    statuses.add(client.get("/sample?n=30", headers={"x-api-key": "greedy"}).status_code)

        hogs = [pool.submit(hog) for _ in range(8)]
        try:
            wait_until(lambda: 429 in statuses)
            headers = {"x-api-key": "polite"}
            answers = [post(service.client, "/decode", Z, JSON, **headers) for _ in range(60)]
        finally:
            over.set()
        for future in hogs:
            future.result()
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.elapsed.total_seconds() for answer in answers)[58] < 1
    assert statuses == {200, 429}


def test_a_greedy_key_makes_nobody_wait_for_all_that_it_asks() -> None:
    """With the limits that there are by default."""
    asked = b"GET /sample?n=10000 HTTP/1.1\r\nhost: x\r\nx-api-key: greedy\r\n\r\n"
    with live_server(environment={"VAE_API_KEYS": "greedy,polite"}) as server, ExitStack() as stack:
        for _ in range(90):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port))).sendall(asked)
        client = stack.enter_context(httpx.Client(base_url=server.url, headers={"x-api-key": "polite"}, timeout=60))
        answers = [post(client, "/decode", Z, JSON) for _ in range(5)]
        assert float(re.findall(r"^vae_requests_in_flight (\S+)", client.get("/metrics").text, re.MULTILINE)[0]) > 10
    assert {answer.status_code for answer in answers} == {200}
    assert max(answer.elapsed.total_seconds() for answer in answers) < 5  # all that was asked for takes longer


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
