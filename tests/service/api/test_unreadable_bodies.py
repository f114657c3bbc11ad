"""Status 400: bodies that cannot be read."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.service.api.requests import (
    FORM,
    IMAGE_PART,
    IMAGE_ROUTES,
    JSON,
    NPY,
    PNG,
    Trap,
    form,
    npy_with_header,
    post,
)
from tests.service.pictures import Bytes, npy, picture, png
from tests.service.problems import problem


@pytest.mark.parametrize("path", IMAGE_ROUTES)
@pytest.mark.parametrize("body", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"\xff\xd8\xff\xe0"])
def test_no_image(client: httpx.Client, path: str, body: bytes) -> None:
    assert "The body is not a" in problem(post(client, path, body, PNG), 400)["detail"]


@pytest.mark.parametrize("file_format", ["TIFF", "EPS", "PPM", "TGA", "ICO", "PDF"])
def test_formats_that_are_not_taken_are_not_taken_under_another_name(
    client: httpx.Client, images: Bytes, file_format: str
) -> None:
    detail = problem(post(client, "/encode", picture(Image.fromarray(images[0]), file_format), PNG), 400)["detail"]
    assert "none of PNG, JPEG, WEBP, BMP, GIF" in detail


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_truncated_pictures(client: httpx.Client, images: Bytes, file_format: str) -> None:
    whole = picture(Image.fromarray(images[0]), file_format)
    for length in range(0, len(whole), 10):
        answer = post(client, "/encode", whole[:length], f"image/{file_format.lower()}")
        if answer.status_code != 200:  # Pillow takes a file that lacks no pixel
            problem(answer, 400)
    assert problem(post(client, "/encode", whole[: len(whole) // 2], PNG), 400)["detail"].startswith("The body is not")


def test_a_bad_part_is_named(client: httpx.Client, images: Bytes) -> None:
    files = [("image", ("a", png(images[0]), PNG)), ("image", ("b", png(images[1])[:60], PNG))]
    assert problem(client.post("/encode", files=files), 400)["detail"].startswith("Part 2 is not a")


@pytest.mark.parametrize("path", ["/decode", "/interpolate", "/traverse"])
@pytest.mark.parametrize(
    "body",
    [b"", b"[1, 2", b"{'z': 1}", b"\xff\xfe[\x001\x00]\x00", b"[1,2,3]]", b'["\\ud800"]', b"[1, 2, " + b"9" * 5000],
)
def test_no_json(client: httpx.Client, path: str, body: bytes) -> None:
    assert problem(post(client, path, body, JSON), 400)["detail"].startswith("The body is not JSON")


@pytest.mark.parametrize("path", ["/decode", "/interpolate", "/traverse"])
@pytest.mark.parametrize(("begin", "end"), [("[", ""), ("[", "]"), ('{"z":', "")])
def test_deep_json(client: httpx.Client, path: str, begin: str, end: str) -> None:
    body = begin * 10_000 + end * 10_000
    assert "recursion" in problem(post(client, path, body, JSON), 400)["detail"]
    assert post(client, path, 10 * body, JSON).status_code in (400, 413)  # it is not parsed


@pytest.mark.parametrize("path", [*IMAGE_ROUTES, "/decode"])
def test_no_npy(client: httpx.Client, path: str) -> None:
    for body in (b"", b"\x93NUMPY", b"PK\x03\x04", npy(np.zeros(3))[:40]):
        assert problem(post(client, path, body, NPY), 400)["detail"].startswith("The body is not an npy file")


HEADER = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}}}"


@pytest.mark.parametrize(
    "shape", ["(4,)", "(2,)", "(-3,)", "(-1, -3)", "(True, 3)", "(10000000000, 3)", "(4294967296, 4294967296, 3)"]
)
def test_npy_whose_header_lies_is_refused_before_any_memory_is_taken(client: httpx.Client, shape: str) -> None:
    body = npy_with_header(HEADER.format(shape), np.zeros(3, "<f4").tobytes())
    tracemalloc.start()
    answer = post(client, "/decode", body, NPY)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "12 bytes follow a header that declares" in problem(answer, 400)["detail"]
    assert peak < 5_000_000


def test_truncated_npy(client: httpx.Client, images: Bytes) -> None:
    whole = npy(images[0])
    for length in range(0, len(whole), 10):
        problem(post(client, "/encode", whole[:length], NPY), 400)
    problem(post(client, "/encode", whole + b"\0", NPY), 400)


@pytest.mark.parametrize("path", [*IMAGE_ROUTES, "/decode"])
def test_pickles_are_never_loaded(client: httpx.Client, tmp_path: Path, path: str) -> None:
    array = np.array([Trap(tmp_path / "sprung")] * 3)
    detail = problem(post(client, path, npy(array), NPY), 422)["detail"]
    assert detail == "The array's dtype is object; uint8 or a floating one is expected."
    pickled = npy(array)[npy(array).index(b"\n") + 1 :]
    problem(post(client, path, pickled, NPY), 400)
    assert not (tmp_path / "sprung").exists()
    np.load(io.BytesIO(npy(array)), allow_pickle=True)
    assert (tmp_path / "sprung").exists()  # the trap is one


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        (FORM, b"", "boundary"),
        (f"{FORM}; boundary=b", b"no form", "does not begin with its boundary"),
        (f"{FORM}; boundary=b", b"", "does not begin with its boundary"),
        (f"{FORM}; boundary=b", form(("content-type: image/png" + "x" * 5000, b"x")), "longer than 4096 bytes"),
        (f"{FORM}; boundary=b", b"--bc\r\n" + form((IMAGE_PART, b"x")), "last boundary is missing"),
        (f"{FORM}; boundary=b", form((IMAGE_PART, b"x"), end=b""), "last boundary is missing"),
        (f"{FORM}; boundary=b", form((IMAGE_PART, b"x"), end=b"--b"), "last boundary is missing"),
        (f"{FORM}; boundary=b", form(("content-type: image/png", b"x")), "Content-Disposition"),
    ],
)
def test_no_form(client: httpx.Client, content_type: str, body: bytes, said: str) -> None:
    assert said in problem(post(client, "/encode", body, content_type), 400)["detail"]


def test_a_form_cut_short_loses_no_picture_silently(client: httpx.Client, images: Bytes) -> None:
    whole = form(*((IMAGE_PART, png(digit)) for digit in images[:3]))
    content_type = f"{FORM}; boundary=b"
    assert len(post(client, "/encode", whole, content_type).json()["mean"]) == 3
    for length in range(0, len(whole) - 4, 10):
        problem(post(client, "/encode", whole[:length], content_type), 400)


@pytest.mark.parametrize("charset", ["punycode", "utf-7", "undefined", "zlib", "x"])
def test_no_codec_of_the_callers_choice(client: httpx.Client, images: Bytes, charset: str) -> None:
    """Some take hours for a megabyte."""
    picture, content_type = (IMAGE_PART, png(images[0])), f"{FORM}; boundary=b; charset={charset}"
    assert post(client, "/encode", form(picture), content_type).status_code == 200
    text = (
        f'content-disposition: form-data; name="a+2AA-"\r\ncontent-type: text/plain; charset={charset}',
        b"a" * 10**6,
    )
    answer = post(client, "/encode", form(picture, text), content_type)
    assert "text named 'a+2AA-'" in problem(answer, 422)["detail"]
    assert answer.elapsed.total_seconds() < 1
