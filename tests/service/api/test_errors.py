"""Every row of the error table, over HTTP."""

import io
import json
import re
import socket
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service import errors
from service.api import operation, pictures
from service.api.diffusers import RemoteDecodeOptions
from service.api.schemas import EncodeOptions, ReconstructOptions, SampleOptions
from service.app import INFERENCE, OPERATIONS
from service.errors import Problem, ServiceError, problem_document
from service.formats.images import to_array
from service.settings import BUNDLED
from tests.service.pictures import Bytes, npy, picture, png
from tests.service.problems import bad_fields, problem
from tests.service.running import Broken, Running, Stalled, running, wait_until

PNG, JSON, NPY, FORM = "image/png", "application/json", "application/x-npy", "multipart/form-data"
Z = [0.3, 1.6, -2.4]
IMAGE_ROUTES = ["/encode", "/reconstruct"]
OPTIONS = (EncodeOptions, ReconstructOptions, SampleOptions, RemoteDecodeOptions)
POST_ROUTES = [*IMAGE_ROUTES, "/decode", "/interpolate", "/traverse"]
ROUTES = [*((("POST", path)) for path in POST_ROUTES), *(("GET", path) for path in ("/sample", "/latents", "/model"))]
OPEN = {
    *("/", "/web", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/static-offline-docs"),
    *("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"),
}
"""Who has no key may ask for these, and for nothing else."""
LOCKED = {"/metrics": "GET", **{path: method for path, (method, _) in {**OPERATIONS, **INFERENCE}.items()}}
EVERY_LOCKED = [(method, path.format(name="mnist", version="1")) for path, method in LOCKED.items()]
EVERY_POST = [path for method, path in EVERY_LOCKED if method == "POST"]

BODY_LIMIT, BATCH_LIMIT, PIXEL_LIMIT = 20_000, 4, 100 * 100


@pytest.fixture(scope="module")
def tight() -> Iterator[Running]:
    """A service with small limits."""
    with running(body_limit=BODY_LIMIT, batch_limit=BATCH_LIMIT, image_pixel_limit=PIXEL_LIMIT) as service:
        yield service


def post(client: httpx.Client, path: str, body: bytes | str, content_type: str) -> httpx.Response:
    return client.post(path, content=body, headers={"content-type": content_type})


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """A header that tells of so many pixels, and hardly any of them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def npy_with_header(header: str, data: bytes) -> bytes:
    line = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + data


# 400: it cannot be read.


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
    assert "12 bytes follow a header that tells of" in problem(answer, 400)["detail"]
    assert peak < 5_000_000


def test_truncated_npy(client: httpx.Client, images: Bytes) -> None:
    whole = npy(images[0])
    for length in range(0, len(whole), 10):
        problem(post(client, "/encode", whole[:length], NPY), 400)
    problem(post(client, "/encode", whole + b"\0", NPY), 400)


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "sprung")


@pytest.mark.parametrize("path", [*IMAGE_ROUTES, "/decode"])
def test_pickles_are_never_loaded(client: httpx.Client, tmp_path: Path, path: str) -> None:
    array = np.array([Trap(tmp_path / "sprung")] * 3)
    detail = problem(post(client, path, npy(array), NPY), 422)["detail"]
    assert detail == "The array's dtype is object; uint8 or a floating one is wanted."
    pickled = npy(array)[npy(array).index(b"\n") + 1 :]
    problem(post(client, path, pickled, NPY), 400)
    assert not (tmp_path / "sprung").exists()
    np.load(io.BytesIO(npy(array)), allow_pickle=True)
    assert (tmp_path / "sprung").exists()  # the trap is one


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n" for head, body in parts) + end


IMAGE_PART = 'content-disposition: form-data; name="image"; filename="x"'


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


# 401: who is it?


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
    assert sorted(paths) == sorted([*OPEN, *LOCKED])


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


# 404 and 405: not here, not so.


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


# 406 and 415: media types.


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


# 413: too much, told before it is decoded.


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
    """It tells no length; it is refused as soon as it is too long, not when it ends."""
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


# 422: readable, but wrong.


@pytest.mark.parametrize(
    ("body", "pointers", "said"),
    [
        ("[1, 2]", [""], "A latent of 3 numbers is expected; this is a list of 2"),
        ("[1, 2, 3, 4]", [""], "this is a list of 4"),
        ("[]", [""], "A latent of 3 numbers"),
        ("3", [""], "A latent of 3 numbers"),
        ("null", [""], "A latent of 3 numbers"),
        ('"NaN"', [""], "A latent of 3 numbers"),
        ("[[]]", ["/0"], "this is a list of 0"),
        ("[[1, 2, 3], [1, 2]]", ["/1"], "this is a list of 2"),
        ("[[1, 2, 3], 4]", ["/1"], "this is not a list"),
        ("[1, [2], 3]", ["/1"], "[2] is not a finite number within ±1e+06"),
        ("[1, 2, [3, 4]]", ["/2"], "not a finite number"),
        ("[NaN, 2, Infinity]", ["/0", "/2"], "nan is not a finite number within ±1e+06"),
        ("[1, -Infinity, 1e999]", ["/1", "/2"], "-inf is not"),
        ('["NaN", 2, "3"]', ["/0", "/2"], "'NaN' is not a finite number"),
        ("[true, 2, null]", ["/0", "/2"], "True is not a finite number"),
        ("[1, 2, 1e39]", ["/2"], "1e+39 is not a finite number within ±1e+06"),
        ("[1, 2, -1000001]", ["/2"], "-1000001 is not a finite number within ±1e+06"),
        (f"[1, 2, {'9' * 400}]", ["/2"], "9999 is not a finite number within ±1e+06"),
        ('{"z": [1, 2, NaN]}', ["/z/2"], "nan is not"),
        ('{"z": [[1, 2, 3], [1, 2, true]]}', ["/z/1/2"], "True is not"),
        ('{"z": [1]}', ["/z"], "this is a list of 1"),
        ('{"z": {}}', ["/z"], "A latent of 3 numbers"),
        ("{}", ["/z"], "A latent of 3 numbers"),
        ('{"z": [1, 2, 3], "seed": 1}', ["/seed"], "'seed' is not a field of this object; its only one is 'z'"),
        ('{"a/b": 1, "c~d": 2}', ["/a~1b", "/c~0d"], "'a/b' is not a field"),
    ],
)
def test_wrong_latents(client: httpx.Client, body: str, pointers: list[str], said: str) -> None:
    answer = post(client, "/decode", body, JSON)
    assert bad_fields(answer) == [("body", pointer) for pointer in pointers]
    assert said in answer.json()["detail"]


def test_numbers_at_the_bound(client: httpx.Client) -> None:
    assert client.post("/decode", json=[1e6, -1e6, 0]).status_code == 200
    assert len(bad_fields(post(client, "/decode", "[1000000.1, -1000001, 0]", JSON))) == 2


def test_only_the_first_problems_are_told(client: httpx.Client) -> None:
    wrong = [[True] * 3] * 1000
    assert len(bad_fields(client.post("/decode", json=wrong))) == 8
    assert len(bad_fields(client.post("/decode", json={str(i): i for i in range(100)}))) == 8
    extra = {str(i): i for i in range(100)}
    assert len(bad_fields(client.post("/interpolate", json={"from": Z, "to": Z, **extra}))) == 8


def test_a_long_value_is_not_sent_back(client: httpx.Client) -> None:
    assert len(post(client, "/decode", f'[1, 2, "{"x" * 100_000}"]', JSON).content) < 1000


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(2), "(2,); (3,) or (N, 3) is expected"),
        (np.zeros((1, 2, 3)), "(1, 2, 3)"),
        (np.zeros((0, 3)), "(0, 3)"),
        (np.zeros(()), "()"),
        (np.array([0, np.nan, 0]), "not finite or beyond ±1e+06"),
        (np.array([0, np.inf, 0], np.float16), "not finite"),
        (np.array([0, -np.inf, 0], np.float32), "not finite"),
        (np.array([0, 1e300, 0]), "beyond ±1e+06"),
        (np.array([0, 1e39, 0]), "beyond ±1e+06"),
        (np.array([0, 1e7, 0]), "beyond ±1e+06"),
        (np.zeros(3, np.int64), "dtype is int64; uint8 or a floating one is wanted"),
        (np.zeros(3, np.complex64), "dtype is complex64"),
        (np.zeros(3, bool), "dtype is bool"),
        (np.array(["1", "2", "3"]), "dtype is <U1"),
        (np.zeros(3, [("a", "f4")]), "dtype is"),
    ],
)
def test_wrong_latent_arrays(client: httpx.Client, array: NDArray[Any], said: str) -> None:
    answer = post(client, "/decode", npy(array), NPY)
    assert bad_fields(answer) == [("body", "")]
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("path", IMAGE_ROUTES)
@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(784), "(784,); (1, 28, 28) or (N, 1, 28, 28), or (28, 28) or (N, 28, 28), is expected"),
        (np.zeros((28, 29)), "(28, 29)"),
        (np.zeros((3, 28, 29)), "(3, 28, 29)"),
        (np.zeros((2, 3, 28, 28)), "(2, 3, 28, 28)"),
        (np.zeros((1, 1, 1, 28, 28)), "(1, 1, 1, 28, 28)"),
        (np.zeros((0, 28, 28)), "(0, 28, 28)"),
        (np.full((28, 28), 255.0), "outside [0, 1]; scale it, or send uint8"),
        (np.full((28, 28), -1e-3), "outside [0, 1]"),
        (np.full((28, 28), np.nan), "outside [0, 1]"),
        (np.full((28, 28), np.inf, np.float16), "outside [0, 1]"),
        (np.zeros((28, 28), np.int32), "dtype is int32"),
    ],
)
def test_wrong_image_arrays(client: httpx.Client, path: str, array: NDArray[Any], said: str) -> None:
    answer = post(client, path, npy(array), NPY)
    assert bad_fields(answer) == [("body", "")]
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("head", "pointer", "said"),
    [
        ('content-disposition: form-data; name="picture"; filename="x"', "/picture", "a file named 'picture'"),
        ('content-disposition: form-data; name="image"', "/image", "text named 'image'"),
        ('content-disposition: form-data; name="a/b~c"; filename="x"', "/a~1b~0c", "files named 'image' are expected"),
    ],
)
def test_wrong_parts(client: httpx.Client, images: Bytes, head: str, pointer: str, said: str) -> None:
    body = form((IMAGE_PART, png(images[0])), (head, b"x"))
    answer = post(client, "/encode", body, f"{FORM}; boundary=b")
    assert bad_fields(answer) == [("body", pointer)]
    assert said in answer.json()["detail"]
    assert "Part 2 " in answer.json()["detail"]


def test_form_without_parts(client: httpx.Client) -> None:
    assert bad_fields(post(client, "/encode", b"--b--\r\n", f"{FORM}; boundary=b")) == [("body", "/image")]


INTERPOLATION: dict[str, Any] = {"from": Z, "to": Z}
TRAVERSAL: dict[str, Any] = {"at": Z, "dimensions": [0]}


@pytest.mark.parametrize(
    ("path", "body", "pointer", "said"),
    [
        ("/interpolate", [], "", "The body"),
        ("/interpolate", {"to": Z}, "/from", "from"),
        ("/interpolate", {**INTERPOLATION, "from": [1, 2]}, "/from", "from has 2 numbers; 3 are expected"),
        ("/interpolate", {**INTERPOLATION, "to": [1, 2, 3, 4]}, "/to", "to has 4 numbers; 3 are expected"),
        ("/interpolate", {**INTERPOLATION, "to": [1, 2, "3"]}, "/to/2", "to.2"),
        ("/interpolate", {**INTERPOLATION, "to": [1, 2, True]}, "/to/2", "to.2"),
        ("/interpolate", {**INTERPOLATION, "to": [1, 2, 1e7]}, "/to/2", "1000000"),
        ("/interpolate", {**INTERPOLATION, "to": "NaN"}, "/to", "to"),
        ("/interpolate", {**INTERPOLATION, "steps": 1}, "/steps", "greater than or equal to 2"),
        ("/interpolate", {**INTERPOLATION, "steps": 2.5}, "/steps", "steps"),
        ("/interpolate", {**INTERPOLATION, "steps": "8"}, "/steps", "steps"),
        ("/interpolate", {**INTERPOLATION, "steps": True}, "/steps", "steps"),
        ("/interpolate", {**INTERPOLATION, "method": "cubic"}, "/method", "'linear' or 'spherical'"),
        ("/interpolate", {**INTERPOLATION, "methd": "linear"}, "/methd", "methd"),
        ("/traverse", {"dimensions": [0]}, "/at", "at"),
        ("/traverse", {**TRAVERSAL, "at": [1]}, "/at", "at has 1 numbers; 3 are expected"),
        ("/traverse", {**TRAVERSAL, "dimensions": []}, "/dimensions", "at least 1"),
        ("/traverse", {**TRAVERSAL, "dimensions": [0, 1, 2]}, "/dimensions", "at most 2"),
        (
            "/traverse",
            {**TRAVERSAL, "dimensions": [3]},
            "/dimensions/0",
            "dimensions.0 is 3; distinct ones from 0 to 2",
        ),
        ("/traverse", {**TRAVERSAL, "dimensions": [1, 1]}, "/dimensions/1", "dimensions.1 is 1; distinct ones"),
        ("/traverse", {**TRAVERSAL, "dimensions": [-1]}, "/dimensions/0", "greater than or equal to 0"),
        ("/traverse", {**TRAVERSAL, "dimensions": [True]}, "/dimensions/0", "dimensions.0"),
        ("/traverse", {**TRAVERSAL, "low": "0"}, "/low", "low"),
        ("/traverse", {**TRAVERSAL, "high": 1e7}, "/high", "1000000"),
        ("/traverse", {**TRAVERSAL, "steps": 1}, "/steps", "greater than or equal to 2"),
        ("/traverse", {**TRAVERSAL, "hi": 3}, "/hi", "hi"),
    ],
)
def test_wrong_documents(client: httpx.Client, path: str, body: object, pointer: str, said: str) -> None:
    answer = client.post(path, json=body)
    assert bad_fields(answer) == [("body", pointer)]
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_documents_with_numbers_that_are_none(client: httpx.Client, value: str) -> None:
    bodies = {
        "/from/1": ("/interpolate", f'{{"from": [0, {value}, 0], "to": [0, 0, 0]}}'),
        "/low": ("/traverse", f'{{"at": [0, 0, 0], "dimensions": [0], "low": {value}}}'),
    }
    for pointer, (path, body) in bodies.items():
        assert bad_fields(post(client, path, body, JSON)) == [("body", pointer)]


@pytest.mark.parametrize(
    ("query", "pointer", "said"),
    [
        ("n=0", "/n", "greater than or equal to 1"),
        ("n=many", "/n", "valid integer"),
        ("n=1.5", "/n", "valid integer"),
        ("seed=-1", "/seed", "greater than or equal to 0"),
        (f"seed={2**64}", "/seed", "less than 18446744073709551616"),
        (f"seed={'9' * 5000}", "/seed", "seed"),
        ("temperature=-0.1", "/temperature", "greater than or equal to 0"),
        ("temperature=101", "/temperature", "less than or equal to 100"),
        ("temperature=nan", "/temperature", "finite"),
        ("temperature=inf", "/temperature", "finite"),
        ("columns=0", "/columns", "greater than or equal to 1"),
        ("columns=10001", "/columns", "less than or equal to 10000"),
        ("scale=0", "/scale", "greater than or equal to 1"),
        ("scale=65", "/scale", "less than or equal to 64"),
        ("sed=7", "/sed", "This route has no such parameter"),
        ("a%2Fb=7", "/a~1b", "This route has no such parameter"),
    ],
)
def test_wrong_query(client: httpx.Client, query: str, pointer: str, said: str) -> None:
    answer = client.get(f"/sample?{query}")
    assert bad_fields(answer) == [("query", pointer)]
    assert said in answer.json()["detail"]


def test_the_parameters_of_a_query_are_bounded(client: httpx.Client) -> None:
    most = "&".join(["seed=1"] * operation.MAX_PARAMETERS)
    assert client.get(f"/sample?{most}").status_code == 200
    for query in (f"{most}&seed=1", "&" * 60_000, "a&" * 30_000):
        answer = client.get(f"/sample?{query}")
        assert bad_fields(answer) == [("query", "")]
        assert f"more than {operation.MAX_PARAMETERS} parameters" in answer.json()["detail"]


def test_the_names_of_parameters_are_quoted_shortened(client: httpx.Client) -> None:
    answer = client.get(f"/sample?{'x' * 30_000}=1&{'y' * 20_000}")
    assert bad_fields(answer) == [("query", f"/{letter * operation.MAX_NAME}…") for letter in "xy"]
    assert len(answer.content) < 1000
    known = {name for model in OPTIONS for name in model.model_fields}
    assert max(map(len, known)) < operation.MAX_NAME


def test_long_queries_are_not_cached() -> None:
    """Callers could fill the memory with them."""
    query = b"seed=1&n=2"
    first = operation.read_options(SampleOptions, query)
    assert operation.read_options(SampleOptions, query) is first
    before = operation._cached_options.cache_info().currsize
    for number in range(10):
        long = b"%b&scale=%b%d" % (query, b"0" * 300, 1 + number)
        assert operation.read_options(SampleOptions, long).scale == 1 + number
    assert operation._cached_options.cache_info().currsize == before


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_refuses_parameters_that_it_does_not_know(client: httpx.Client, method: str, path: str) -> None:
    assert bad_fields(client.request(method, f"{path}?colour=red")) == [("query", "/colour")]


@pytest.mark.parametrize("path", IMAGE_ROUTES)
def test_wrong_image_options(client: httpx.Client, images: Bytes, path: str) -> None:
    answer = post(client, f"{path}?fit=crop&invert=perhaps&draw=2&seed=x", png(images[0]), PNG)
    assert [pointer for _, pointer in bad_fields(answer)] == ["/fit", "/invert", "/draw", "/seed"]
    assert "'contain', 'cover' or 'stretch'" in answer.json()["detail"]


# 429, 503, 504: not now.


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def stall(service: Running) -> Stalled:
    stalled: list[Stalled] = []

    def make(engine: Any) -> Stalled:
        stalled.append(Stalled(engine))
        return stalled[0]

    service.swap_engine(make)
    return stalled[0]


def test_full_queue(pool: ThreadPoolExecutor) -> None:
    with running(queue_limit=2) as service:
        engine = stall(service)
        try:
            waiting = [pool.submit(service.client.post, "/decode", json=Z) for _ in range(2)]
            service.wait_for(in_flight=2)
            refused = service.client.get("/model")
            assert "All 2 places in the queue are taken" in problem(refused, 503)["detail"]
            assert refused.headers["retry-after"] == "1"
            for path in ("/livez", "/readyz", "/", "/openapi.json"):
                assert service.client.get(path).status_code == 200
        finally:
            engine.released.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
        service.wait_for(in_flight=0)
        assert service.client.get("/model").status_code == 200


def test_one_keys_share(pool: ThreadPoolExecutor) -> None:
    with running(queue_limit=5, api_keys=("a", "b")) as service:
        engine = stall(service)
        greedy, modest = {"x-api-key": "a"}, {"x-api-key": "b"}
        try:
            waiting = [pool.submit(service.client.post, "/decode", json=Z, headers=greedy) for _ in range(2)]
            service.wait_for(in_flight=2)
            refused = service.client.get("/model", headers=greedy)
            assert "2 requests in flight, its share" in problem(refused, 429)["detail"]
            assert refused.headers["retry-after"] == "1"
            assert service.client.get("/model", headers=modest).status_code == 200
        finally:
            engine.released.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
        service.wait_for(in_flight=0)
        assert service.client.get("/model", headers=greedy).status_code == 200


@pytest.mark.parametrize("status", ["starting", "draining"])
def test_not_ready(status: Any) -> None:
    with running() as service:
        service.admission.status = status
        for method, path in ROUTES:
            refused = service.client.request(method, path)
            assert f"The service is {status}" in problem(refused, 503)["detail"]
            assert refused.headers["retry-after"] == "1"
        ready = service.client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": status})
        assert service.client.get("/livez").status_code == 200


def test_deadline(pool: ThreadPoolExecutor) -> None:
    with running(request_deadline=0.2) as service:
        engine = stall(service)
        try:
            late = service.client.post("/decode", json=Z)
            assert problem(late, 504)["detail"] == "The request took longer than 0.2 seconds."
            assert late.elapsed.total_seconds() < 1.5
            service.wait_for(in_flight=0)
        finally:
            engine.released.set()
        assert service.client.post("/decode", json=Z).status_code == 200


def test_deadline_of_a_body_that_never_ends() -> None:
    with running(request_deadline=0.2) as service:
        head = f"POST /decode HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {JSON}\r\ncontent-length: 9\r\n"
        assert service.exchange(f"{head}\r\n[1,".encode()).startswith(b"HTTP/1.1 504 ")
        service.wait_for(in_flight=0)


# 500, and what the server underneath says.


def test_a_failure_says_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    with running() as service:
        service.swap_engine(Broken)
        answer = service.client.post("/decode", json=Z)
        assert problem(answer, 500)["detail"] == "The service failed on this request; its log says why."
        assert "secret" not in answer.text + str(answer.headers)
        assert service.admission.in_flight == 0
        assert service.client.get("/model").status_code == 200
    (record,) = (record for record in caplog.records if record.exc_info)
    assert "the secret of /inside/engine.py" in str(record.exc_info)


@pytest.mark.parametrize("request_bytes", [b"\0\1garbage\r\n\r\n", b"GET /model HTTP/9\r\n\r\n", b"FROB\r\n\r\n"])
def test_what_is_not_http(served: Running, request_bytes: bytes) -> None:
    head, _, body = served.exchange(request_bytes).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 400 Bad Request"
    headers = httpx.Headers([line.partition(": ")[::2] for line in lines[1:]])
    assert int(headers["content-length"]) == len(body)
    assert problem(httpx.Response(400, headers=headers, content=body), 400)["detail"] == "This is not HTTP/1.1."


def test_bad_chunks(served: Running) -> None:
    head = f"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n"
    assert served.exchange(head.encode() + b"zz\r\n").startswith(
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/p"
    )


def test_a_caller_who_hangs_up_is_no_failure(served: Running, caplog: pytest.LogCaptureFixture) -> None:
    head = f"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: 100\r\n\r\n[1,"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(head.encode())
        served.wait_for(in_flight=1)
    served.wait_for(in_flight=0)
    wait_until(lambda: served.client.get("/model").status_code == 200)
    assert not [record for record in caplog.records if record.exc_info]


# The tree.


def leaves(tree: type[ServiceError]) -> list[type[ServiceError]]:
    return [tree] if not tree.__subclasses__() else [leaf for sub in tree.__subclasses__() for leaf in leaves(sub)]


def test_every_error_has_a_status_of_its_own_and_stands_in_the_module() -> None:
    statuses = [int(error.status) for error in leaves(ServiceError)]
    assert sorted(statuses) == sorted(set(statuses))
    for error in leaves(ServiceError):
        assert f"{error.__name__} " in (errors.__doc__ or "")


def test_problem_document_of_a_field() -> None:
    class Odd(ServiceError):
        status = leaves(ServiceError)[0].status

    document = json.loads(problem_document(Odd("Größe.", problems=[Problem("body", "/a/0", "Größe.")])))
    assert document["errors"] == [{"in": "body", "pointer": "/a/0", "detail": "Größe."}]


@pytest.mark.parametrize("path", ["/decode", "/interpolate", "/traverse", "/v2/models/mnist/infer"])
def test_a_name_of_megabytes_is_told_shortened(client: httpx.Client, path: str) -> None:
    for letters, status in ((10**6, 422), (10**7, 413)):
        answer = post(client, path, b'{"%b": 1}' % (b"x" * letters), JSON)
        assert answer.status_code == status
        assert len(answer.content) < 2000
