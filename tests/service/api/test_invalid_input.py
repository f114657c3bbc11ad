"""Status 422: readable, but with wrong values."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.api import operation
from service.api.remote.options import RemoteDecodeOptions
from service.api.schemas import EncodeOptions, ReconstructOptions, SampleOptions
from tests.service.api.requests import (
    FORM,
    IMAGE_PART,
    IMAGE_ROUTES,
    JSON,
    NPY,
    PNG,
    ROUTES,
    Z,
    form,
    post,
)
from tests.service.pictures import Bytes, npy, png
from tests.service.problems import bad_fields

OPTIONS = (EncodeOptions, ReconstructOptions, SampleOptions, RemoteDecodeOptions)


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
        (np.zeros(3, np.int64), "dtype is int64; uint8 or a floating one is expected"),
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


@pytest.mark.parametrize(("path", "own"), [("/encode", "draw"), ("/reconstruct", "draw"), ("/score", "map")])
def test_wrong_image_options(client: httpx.Client, images: Bytes, path: str, own: str) -> None:
    answer = post(client, f"{path}?fit=crop&invert=perhaps&{own}=2&seed=x", png(images[0]), PNG)
    assert {pointer for _, pointer in bad_fields(answer)} == {"/fit", "/invert", f"/{own}", "/seed"}
    assert "'contain', 'cover' or 'stretch'" in answer.json()["detail"]
