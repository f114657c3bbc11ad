"""Status 413: what exceeds a limit, refused before it is decoded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.api import pictures
from service.formats.images import to_array
from tests.service.api.requests import (
    BATCH_LIMIT,
    BODY_LIMIT,
    FORM,
    IMAGE_ROUTES,
    JSON,
    NPY,
    PIXEL_LIMIT,
    PNG,
    Z,
    png_of_size,
    post,
)
from tests.service.pictures import Bytes, npy, png
from tests.service.problems import problem
from tests.service.running import Running, running


@pytest.fixture(scope="module")
def tight() -> Iterator[Running]:
    """A service with small limits."""
    with running(body_limit=BODY_LIMIT, batch_limit=BATCH_LIMIT, image_pixel_limit=PIXEL_LIMIT) as service:
        yield service


def test_body_over_the_limit_is_refused_from_its_header(tight: Running) -> None:
    head = f"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: 10000000000\r\n"
    answer = tight.exchange(f"{head}connection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert f"limit of {BODY_LIMIT} bytes" in json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]


@pytest.mark.parametrize(("path", "content_type"), [("/encode", PNG), ("/encode", NPY), ("/encode", FORM)])
def test_body_over_the_limit(tight: Running, path: str, content_type: str) -> None:
    detail = problem(post(tight.client, path, b"x" * (BODY_LIMIT + 1), content_type), 413)["detail"]
    assert str(BODY_LIMIT) in detail


def test_body_at_the_limit(tight: Running) -> None:
    problem(post(tight.client, "/decode", b"x" * BODY_LIMIT, JSON), 400)


def test_chunked_body_over_the_limit(tight: Running) -> None:
    """Its length is unknown; it is refused as soon as it is too long, not at its end."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1000 * BODY_LIMIT:
            sent += 1000
            yield b"[" * 1000

    try:
        answer = tight.client.post("/decode", content=endless(), headers={"content-type": JSON})
        assert str(BODY_LIMIT) in problem(answer, 413)["detail"]
    except httpx.WriteError:  # the service has answered and hung up
        assert sent < 1000 * BODY_LIMIT
    head = f"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n"
    chunks = f"{BODY_LIMIT + 1:x}\r\n{'[' * (BODY_LIMIT + 1)}\r\n"
    answer_bytes = tight.exchange(f"{head}connection: close\r\n\r\n{chunks}0\r\n\r\n".encode())
    assert answer_bytes.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", IMAGE_ROUTES)
def test_picture_over_the_limit_is_refused_from_its_header(tight: Running, path: str) -> None:
    bomb = png_of_size(60_000, 60_000)
    detail = problem(post(tight.client, path, bomb, PNG), 413)["detail"]
    assert "60000×60000" in detail
    assert str(PIXEL_LIMIT) in detail
    files = [("image", ("a", png(np.zeros((10, 10), np.uint8)), PNG)), ("image", ("b", bomb, PNG))]
    answer = tight.client.post(path, files=files)
    assert problem(answer, 413)["detail"].startswith("Part 2 is an image of 60000×60000")


def test_the_pictures_of_a_form_are_as_large_together_as_one_may_be(tight: Running) -> None:
    half = png(np.zeros((50, 100), np.uint8))
    assert tight.client.post("/encode", files=[("image", half)] * 2).status_code == 200
    more = png(np.zeros((51, 100), np.uint8))
    detail = problem(tight.client.post("/encode", files=[("image", half), ("image", more)]), 413)["detail"]
    assert detail == f"The form's pictures have {101 * 100} pixels; at most {PIXEL_LIMIT} are allowed."


def test_every_header_of_a_form_is_read_before_any_pixel(tight: Running, images: Bytes) -> None:
    cut, sound, bomb = png(images[0])[:60], png(images[1]), png_of_size(60_000, 60_000)
    for second, status, said in ((sound, 400, "Part 1"), (bomb, 413, "Part 2")):
        answer = tight.client.post("/encode", files=[("image", cut), ("image", second)])
        assert problem(answer, status)["detail"].startswith(said)


def test_forms_of_many_pictures_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are two threads for small pictures; each form would have one to itself for two seconds."""

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.1)
        return to_array(*arguments, **options)

    monkeypatch.setattr(pictures, "to_array", slow)
    small, large = png(np.zeros((28, 28), np.uint8)), png(np.zeros((300, 300), np.uint8))
    with running() as service, ThreadPoolExecutor(8) as pool:
        forms = [pool.submit(service.client.post, "/encode", files=[("image", small)] * 20) for _ in range(8)]
        time.sleep(0.5)
        answer = post(service.client, "/encode", large, PNG)
        assert answer.status_code == 200
        assert answer.elapsed.total_seconds() < 1
        assert {future.result().status_code for future in forms} == {200}


def test_picture_at_the_limit(tight: Running) -> None:
    assert post(tight.client, "/encode", png(np.zeros((100, 100), np.uint8)), PNG).status_code == 200
    problem(post(tight.client, "/encode", png(np.zeros((100, 101), np.uint8)), PNG), 413)


def batch_calls(count: int) -> dict[str, Callable[[httpx.Client], httpx.Response]]:
    digits: NDArray[np.uint8] = np.zeros((count, 28, 28), np.uint8)
    walk = {"from": Z, "to": Z, "steps": count}
    return {
        "images as npy": lambda client: post(client, "/encode", npy(digits), NPY),
        "images as parts": lambda client: client.post(
            "/reconstruct", files=[("image", ("x", png(digit), PNG)) for digit in digits]
        ),
        "latents as npy": lambda client: post(client, "/decode", npy(np.zeros((count, 3))), NPY),
        "latents as json": lambda client: client.post("/decode", json=[Z] * count),
        "n": lambda client: client.get(f"/sample?n={count}"),
        "steps to interpolate": lambda client: client.post("/interpolate", json=walk),
        "steps to traverse": lambda client: client.post("/traverse", json={"at": Z, "dimensions": [0], "steps": count}),
    }


@pytest.mark.parametrize("what", batch_calls(1))
def test_batch_over_the_limit(tight: Running, what: str) -> None:
    assert batch_calls(BATCH_LIMIT)[what](tight.client).status_code == 200
    assert f"at most {BATCH_LIMIT} " in problem(batch_calls(BATCH_LIMIT + 1)[what](tight.client), 413)["detail"]


def test_a_square_of_steps_over_the_limit(tight: Running) -> None:
    body = {"at": Z, "dimensions": [0, 1], "steps": 2}
    assert tight.client.post("/traverse", json=body).status_code == 200
    assert "9 items" in problem(tight.client.post("/traverse", json={**body, "steps": 3}), 413)["detail"]


@pytest.mark.parametrize("digits", [10, 300, 4200])
def test_absurd_counts(client: httpx.Client, digits: int) -> None:
    count = "9" * digits
    problem(client.get(f"/sample?n={count}"), 413)
    latents = '"from": [0, 0, 0], "to": [0, 0, 0]'
    problem(post(client, "/interpolate", f'{{{latents}, "steps": {count}}}', JSON), 413)
    problem(post(client, "/traverse", f'{{"at": [0, 0, 0], "dimensions": [0, 1], "steps": {count}}}', JSON), 413)


def test_png_over_the_limit(tight: Running) -> None:
    calls: list[Callable[[str], httpx.Response]] = [
        lambda scale: tight.client.get(f"/sample?n=4&{scale}"),
        lambda scale: tight.client.post(f"/decode?{scale}", json=[Z] * 4),
        lambda scale: post(tight.client, f"/reconstruct?{scale}", npy(np.zeros((4, 28, 28), np.uint8)), NPY),
        lambda scale: tight.client.post(f"/interpolate?{scale}", json={"from": Z, "to": Z, "steps": 4}),
        lambda scale: tight.client.post(f"/traverse?{scale}", json={"at": Z, "dimensions": [0, 1], "steps": 2}),
    ]
    for call in calls:
        assert call("scale=1").status_code == 200
        detail = problem(call("scale=2"), 413)["detail"]
        assert detail == f"The PNG would have {4 * 56 * 56} pixels; at most {PIXEL_LIMIT} are allowed."
    assert tight.client.get("/sample?n=4&scale=2", headers={"accept": JSON}).status_code == 200


def test_png_over_the_limit_for_its_empty_places() -> None:
    with running(image_pixel_limit=8 * 28 * 28 - 1) as service:
        assert service.client.get("/sample?n=5&columns=3").status_code == 200
        detail = problem(service.client.get("/sample?n=5&columns=4"), 413)["detail"]
        assert detail.startswith(f"The PNG would have {8 * 28 * 28} pixels")
