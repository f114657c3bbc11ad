"""Documents with long lists of numbers, read in pieces: as json reads them, or refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidInput, ServiceError, TooLarge, UnreadableBody
from service.formats.json_reader import PIECE, read_json
from service.memory_budget import MemoryBudget

pytestmark = pytest.mark.slow

MANY = 100_000


def read(body: bytes, numbers: int = 10**6) -> Any:
    return read_json(body, MemoryBudget(2**30).reserve, numbers=numbers)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", " :\t")])
@pytest.mark.parametrize(
    "shape", [(60_000,), (20_000, 3), (1, 60_000), (60_000, 1), (90, 1, 28, 28), (3, 2, 1, 1, 10_000)]
)
def test_long_lists_are_what_json_has(shape: tuple[int, ...], separators: tuple[str, str]) -> None:
    numbers = np.random.default_rng(0).normal(size=shape)
    awkward = 'a "quoted" \\ [1,2] { '
    framed = {"inputs": [{"name": awkward, "data": numbers.tolist(), "shape": [1, 2], awkward: None}]}
    for document in (numbers.tolist(), framed):
        body = json.dumps(document, separators=separators).encode()
        assert len(body) > 2 * PIECE
        found = read(body)
        if document is framed:
            (tensor,) = found["inputs"]
            found = tensor.pop("data")
            assert tensor == {"name": awkward, "shape": [1, 2], awkward: None}
        assert found.dtype == np.float64
        assert np.array_equal(found, numbers)


def test_several_long_lists() -> None:
    found = read(json.dumps({"from": [0] * MANY, "to": [[1], [2]], "more": [[2.5, 1e3]] * MANY}).encode())
    assert np.array_equal(found["from"], np.zeros(MANY))
    assert found["to"] == [[1], [2]]
    assert np.array_equal(found["more"], [[2.5, 1e3]] * MANY)


def test_short_documents_are_read_as_they_are() -> None:
    document = {"a": [[1, 2.5], [True, None]], "b": "c"}
    assert read(json.dumps(document).encode()) == document


RAGGED = {
    "one row is short": b"[" + b"[1,2,3]," * MANY + b"[1,2]]",
    "a short row and a long one": b"[" + b"[1,2,3]," * MANY + b"[1,2],[1,2,3,4]]",
    "a number beside lists": b"[" + b"[1,2]," * MANY + b"3]",
    "a bracket too early": b"[" + b"[1,2]," * MANY + b"[3,]4]",
    "a bracket too late": b"[" + b"[1,2]," * MANY + b"3[,4]]",
    "an empty list within": b"[" + b"[1,2]," * MANY + b"[1,2][]]",
    "not closed": b"[" + b"[1,2]," * MANY,
    "others than numbers": b"[" + b"1," * MANY + b"null]",
    "integers of thousands of digits": b"[" + b",".join([b"1" * 4000] * 1000) + b"]",
    "objects": b"[" + b"{}," * MANY + b"{}]",
    "a number of 400 digits": b"[" + b"1," * MANY + b"9" * 400 + b"]",
}
UNREADABLE = {
    "a number of a megabyte": b"[" + b"1," * MANY + b"9" * 10**6 + b"]",
    "closed twice": b"[" + b"[1,2]," * MANY + b"[1,2]]]",
    "empty lists": b"[" + b"[]," * MANY + b"[]]",
    "no comma": b"[" + b"1," * MANY + b"1 2]",
    "a comma too many": b"[" + b"1," * MANY + b"]",
    "a comma first": b"[" + b",1" * MANY + b"]",
    "two commas": b"[" + b"1," * MANY + b",1]",
    "not a number": b"[" + b"1," * MANY + b"--1]",
    "more behind it": b"[" + b"1," * MANY + b"1]x",
    "too deep": b"[" * 9 + b"1," * MANY + b"1" + b"]" * 9,
    "brackets alone": b"[" * 10**6,
    "a string that is not closed": b'{"a": [' + b"1," * MANY + b'1], "b',
}
TOO_LARGE = {
    "strings": b"[" + b'"",' * MANY + b'""]',
    "quotation marks in a string": b'["' + b'\\"' * MANY + b'",' + b"1," * MANY + b"1]",
    "more numbers than are taken": b"[" + b"1," * 1_000_100 + b"1]",
    "objects in objects": b'{"a":' * MANY,
}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        *((body, InvalidInput) for body in RAGGED.values()),
        *((body, UnreadableBody) for body in UNREADABLE.values()),
        *((body, TooLarge) for body in TOO_LARGE.values()),
    ],
    ids=[*RAGGED, *UNREADABLE, *TOO_LARGE],
)
def test_what_is_wrong_is_refused(body: bytes, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        read(body)


def test_exactly_as_many_numbers_as_are_taken() -> None:
    body = json.dumps({"data": [0.5] * MANY, "shape": [1], "datatype": "FP32"}).encode()
    assert read(body, MANY)["data"].size == MANY
    with pytest.raises(TooLarge):
        read(body, MANY - 1)
