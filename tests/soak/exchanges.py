"""Requests of each operation, and the right response to each."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from tests.soak.client import Response, connect, write_request

DIGITS = Path(__file__).parent.parent / "data" / "digits.npz"
JSON, NPY, PNG = "application/json", "application/x-npy", "image/png"
ANSWERS = (PNG, JSON, NPY)
BATCHES = (2, 5, 16, 33, 64, 65, 200)
"""Sizes below, at and above the default limit of a micro-batch, 64."""
BOUNDARY = "soak"


@dataclass(frozen=True)
class Exchange:
    """A request, and the response to it when no other request was sent."""

    name: str
    request: bytes
    response: Response

    def matches(self, response: Response) -> bool:
        """Is the response the same, bit for bit? A row's result does not depend on its batch."""
        mine = self.response
        return (
            response.status == mine.status
            and response.body == mine.body
            and response.fields.get(b"content-type") == mine.fields.get(b"content-type")
            and response.fields.get(b"x-seed") == mine.fields.get(b"x-seed")
        )


async def ask_alone(port: int, requests: Sequence[tuple[str, bytes]]) -> list[Exchange]:
    """Send requests one by one. No two responses may be equal, so that swapped ones are found."""
    exchanges = await ask_anything(port, requests)
    for exchange in exchanges:
        if exchange.response.status != 200:
            raise RuntimeError(f"{exchange.name} was answered with {exchange.response.status} when asked alone.")
    if len({exchange.response.body for exchange in exchanges}) < len(exchanges):
        raise RuntimeError("Two exchanges have the same response: one that is swapped could not be told.")
    return exchanges


async def ask_anything(port: int, requests: Sequence[tuple[str, bytes]]) -> list[Exchange]:
    """Send requests one by one; responses may have any status."""
    exchanges = []
    for name, request in requests:
        connection = await connect(port)
        exchanges.append(Exchange(name, request, await connection.ask(request)))
        connection.transport.close()
    return exchanges


def shuffled(exchanges: Sequence[Exchange], count: int) -> Iterator[Exchange]:
    """Choose `count` exchanges at random, the same in each run."""
    chance = random.Random(count)
    for _ in range(count):
        yield chance.choice(exchanges)


def small_requests() -> Iterator[tuple[str, bytes]]:
    """Requests of one item, which are the most frequent ones."""
    normal = np.random.default_rng(1)
    for number, digit in enumerate(digits()[:60]):
        accept = ANSWERS[number % 3]
        z = normal.standard_normal(3, np.float32).tolist()
        yield f"decode to {accept}", _post("/decode", json.dumps(z).encode(), JSON, accept)
        kind = ("PNG", "JPEG", "WebP", "BMP", "GIF")[number % 5]
        image, media_type = picture(digit, kind), f"image/{kind.lower()}"
        yield f"encode {kind}", _post("/encode", image, media_type, (JSON, NPY)[number % 2])
        target = f"/reconstruct?draw=true&seed={number}" if number % 2 else "/reconstruct"
        yield f"{target} of a {kind} to {accept}", _post(target, image, media_type, accept)
        target = f"/score?seed={number}&samples={number}"
        yield f"{target} of a {kind}", _post(target, image, media_type, (JSON, NPY)[number % 2])
        target = f"/sample?seed={number}&temperature=1.5"
        yield f"{target} to {accept}", write_request("GET", target, accept=accept)


def large_requests() -> Iterator[tuple[str, bytes]]:
    """Requests of batches, paths and forms."""
    normal = np.random.default_rng(2)
    pictures = digits()
    for number, size in enumerate(BATCHES):
        z = normal.standard_normal((size, 3), np.float32)
        chosen = pictures[normal.integers(len(pictures), size=size)]
        for accept in ANSWERS:
            told = f"{size} to {accept}"
            yield f"decode npy {told}", _post("/decode", npy(z), NPY, accept)
            reverse = json.dumps({"z": z[::-1].tolist()}).encode()
            yield f"decode JSON {told}", _post("/decode?columns=3&scale=2", reverse, JSON, accept)
            yield f"reconstruct npy {told}", _post("/reconstruct", npy(chosen), NPY, accept)
            form, form_type = multipart([picture(digit, "PNG") for digit in chosen[::-1]])
            target = f"/reconstruct?draw=true&seed={number}"
            yield f"{target} of a form of {told}", _post(target, form, form_type, accept)
            target = f"/sample?n={size}&seed={number}"
            yield f"{target} to {accept}", write_request("GET", target, accept=accept)
            ends = {"from": z[0].tolist(), "to": z[1].tolist(), "steps": size + 1, "method": "spherical"}
            yield f"interpolate {told}", _post("/interpolate", json.dumps(ends).encode(), JSON, accept)
            walk = {"at": z[0].tolist(), "dimensions": [0, 2], "steps": 2 + number}
            yield f"traverse {told}", _post("/traverse", json.dumps(walk).encode(), JSON, accept)
        for accept in (JSON, NPY):
            target = f"/score?seed={number}"
            yield f"{target} of npy of {size} to {accept}", _post(target, npy(chosen), NPY, accept)
            yield f"encode npy {size} to {accept}", _post("/encode", npy(chosen / 255), NPY, accept)
            target = f"/encode?draw=true&seed={number}"
            yield f"{target} of a form of {size} to {accept}", _post(target, form, form_type, accept)


def other_requests() -> Iterator[tuple[str, bytes]]:
    """Probes, requests of other protocols, and requests that are refused, at least one of each status."""
    for target in (
        "/livez",
        "/readyz",
        "/v2",
        "/v2/models/mnist",
        "/v2/health/ready",
        "/model",
        "/latents",
        "/",
        "/docs",
    ):
        yield target, write_request("GET", target)
    for target in ("/nothing", "/encode", "/sample?n=0", "/sample?n=10001", "/v2/models/other"):
        yield f"refused {target}", write_request("GET", target)
    yield "refused for its accept", write_request("GET", "/model", accept="text/html")
    z = np.random.default_rng(3).standard_normal((2, 3), np.float32)
    yield "remote decode", _post("/remote/decode?shape=2&shape=3", z.tobytes(), "tensor/binary", "*/*")
    pixels = (digits()[:2, None] / 255).astype(np.float32).tobytes()
    shape = "&".join(f"shape={size}" for size in (2, 1, 28, 28))
    yield "remote encode", _post(f"/remote/encode?{shape}", pixels, "tensor/binary", "*/*")
    asked = {"name": "z", "datatype": "FP32", "shape": [2, 3], "data": z.tolist()}
    for given in (asked, {**asked, "shape": [1, 3]}):
        yield "infer", _post("/v2/models/mnist/infer", json.dumps({"inputs": [given]}).encode(), JSON, JSON)
    for body in (b"[0, 0", b"[0, 0]", b"[NaN, 0, 0]", b"[" + b"0," * 60_000 + b"0]"):
        yield "refused JSON", _post("/decode", body, JSON, JSON)
    for body in (b"no image", picture(digits()[0], "PNG")[:60]):
        yield "refused picture", _post("/encode", body, PNG, JSON)
    yield "refused npy", _post("/decode", npy(np.zeros(4)), NPY, JSON)
    yield "refused media type", _post("/decode", b"x", "text/plain", JSON)
    yield "no HTTP", b"no HTTP\r\n\r\n"


def digits() -> NDArray[np.uint8]:
    """Test digits of MNIST, (200, 28, 28)."""
    with np.load(DIGITS) as sample:
        return np.asarray(sample["images"], np.uint8)


def picture(digit: NDArray[np.uint8], kind: str) -> bytes:
    """A digit as a file of a `kind` that Pillow knows."""
    buffer = io.BytesIO()
    Image.fromarray(digit).save(buffer, kind)
    return buffer.getvalue()


def npy(array: ArrayLike) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def multipart(pictures: Sequence[bytes]) -> tuple[bytes, str]:
    """A form with a part for each, and its content type."""
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'.encode()
    body = b"".join(b"%b%b\r\n" % (head, picture) for picture in pictures)
    return body + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


def _post(target: str, body: bytes, content_type: str, accept: str) -> bytes:
    return write_request("POST", target, body, content_type=content_type, accept=accept)
