"""A JSON reader that returns long lists of numbers as NumPy arrays.

A JSON parser holds the GIL for the whole document and creates an object per number: for a list of eight million it
takes seconds and 250 MB. Here long lists are cut out of the document and parsed in pieces.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

from service.errors import TooLarge, UnreadableBody
from service.formats.arrays import wrong
from service.memory_budget import Reserve

DoubleArray = npt.NDArray[np.float64]

VALUES = 50_000
"""Most values parsed by one call, which takes milliseconds."""
VALUE_CHARACTERS = 64
"""Most characters per value, on average, in a document parsed by one call; integers of many digits take long."""
VALUE_BYTES = 100
"""Memory of a Python object in a list, in bytes."""
LIST_BYTES = 16
"""Memory of a number in a list that is cut out, in bytes."""
STRINGS = 10_000
"""Most strings in a document with lists that are cut out, and most quotation marks in one of them."""
PIECE = 2**18
"""Bytes of a list parsed by one call."""
GAP = 2**14
"""Shortest text between two strings, in bytes, that is searched for a list."""
DEPTH = 8
"""Deepest nesting of a list that is cut out."""
MEBIBYTE = 2**20

_OPEN, _CLOSE, _COMMA = b"[],"
_WITHOUT_BRACKETS = bytes.maketrans(b"[]", b"  ")
_SPACES = np.isin(np.arange(256), list(b" \t\r\n"))


def read_json(body: bytes, reserve: Reserve, *, values: int = VALUES, numbers: int = 0, name: str = "The body") -> Any:
    """Parse a document of at most `values` values and, in long lists of one shape each, `numbers` numbers.

    Raises UnreadableBody, TooLarge, InvalidInput for a list that is not of numbers alone, and what `reserve` raises.
    """
    if len(body) <= values:
        try:
            return from_json(body, allow_inf_nan=True)  # NaN is reported as an invalid value, not as invalid JSON
        except ValueError as error:
            raise _unreadable(error, name) from error
    all_values = count_values(body)
    if all_values <= values and len(body) <= VALUE_CHARACTERS * values:
        reserve(4 * len(body) + VALUE_BYTES * all_values)  # text of one byte per character may become one of four
        return _parse(body, name)
    if count(body, b",") > max(values, numbers + STRINGS) or count(body, b"\\") > STRINGS:
        raise _too_large(max(values, numbers), name)
    frame, lists = _cut(body, reserve, numbers, name)
    if count_values(frame) > values or len(frame) > VALUE_CHARACTERS * values:
        raise _too_large(max(values, numbers), name)
    return _put_back(_parse(frame, name), lists)


def count_values(body: bytes) -> int:
    """Return an upper bound on the values, lists and objects of a JSON document."""
    return sum(count(body, mark) for mark in (b",", b"[", b"{")) + 1


def count(body: bytes, mark: bytes, start: int = 0, stop: int | None = None) -> int:
    """Count `mark` in `body` from `start` to `stop`, in pieces between which other threads can run."""
    end = len(body) if stop is None else stop
    return sum(body.count(mark, first, min(first + MEBIBYTE, end)) for first in range(start, end, MEBIBYTE))


def _parse(body: bytes, name: str) -> Any:
    try:
        return from_json(body, allow_inf_nan=True)
    except ValueError as error:
        raise _unreadable(error, name) from error


def _too_large(values: int, name: str) -> TooLarge:
    characters = f"{VALUE_CHARACTERS} characters each on average"
    return TooLarge(f"{name} holds more than the {values} values that are taken, or longer ones than {characters}.")


def _unreadable(error: ValueError, name: str) -> UnreadableBody:
    return UnreadableBody(f"{name} is not JSON: {error}.")


def _cut(body: bytes, reserve: Reserve, numbers: int, name: str) -> tuple[bytes, dict[str, DoubleArray]]:
    """Replace each long list of `body` by a unique string; return the new document and the lists."""
    frame: list[bytes] = []
    lists: dict[str, DoubleArray] = {}
    position, left = 0, numbers
    for start, stop in _between_strings(body):
        first = body.find(b"[", start, stop)
        if first < 0:
            continue
        array, end = _read_list(body, first, stop, reserve, name)
        left -= array.size
        if left < 0:
            raise _too_large(numbers, name)
        key = secrets.token_hex()
        lists[key] = array
        frame += body[position:first], b'"%b"' % key.encode()
        position = end
    return b"".join((*frame, body[position:])), lists


def _between_strings(body: bytes) -> Iterator[tuple[int, int]]:
    """Return the ranges of at least GAP bytes without a string."""
    position = 0
    for _ in range(STRINGS):
        quote = body.find(b'"', position)
        stop = len(body) if quote < 0 else quote
        if stop - position >= GAP:
            yield position, stop
        if quote < 0:
            return
        position = _end_of_string(body, quote) + 1
    raise TooLarge(f"The body holds more than {STRINGS} strings beside its numbers.")


def _end_of_string(body: bytes, quote: int) -> int:
    """Return the position of the quotation mark that closes the string starting at `quote`."""
    end = quote
    for _ in range(STRINGS):
        end = body.find(b'"', end + 1)
        if end < 0:
            return len(body)
        before = end
        while body[before - 1 : before] == b"\\":
            before -= 1
        if (end - before) % 2 == 0:
            return end
    raise TooLarge(f"The body holds a string with more than {STRINGS} quotation marks in it.")


def _read_list(body: bytes, start: int, stop: int, reserve: Reserve, name: str) -> tuple[DoubleArray, int]:
    """Parse the list of numbers, or of lists of one length, at `start`; return it and its end."""
    most = count(body, b",", start, stop) + 1
    reserve(LIST_BYTES * most)
    numbers = np.empty(most, np.float64)
    commas = np.empty(most, np.int8)  # the depth of each
    read = depth = opens = innermost = 0
    while start < stop:
        end = body.find(b",", start + PIECE, stop) + 1 or stop
        if end - start > 2 * PIECE:
            raise UnreadableBody(f"{name} is not JSON that is taken: it holds a number of more than {PIECE} digits.")
        codes = np.frombuffer(body, np.uint8, end - start, start)
        opening = codes == _OPEN
        depths = np.cumsum(opening.astype(np.int8) - (codes == _CLOSE), dtype=np.int32) + depth
        ends = np.flatnonzero(depths == 0)
        if ends.size:
            length = int(ends[0]) + 1
            end = start + length
            codes, opening, depths = codes[:length], opening[:length], depths[:length]
        if depths.max() > DEPTH:
            raise UnreadableBody(f"{name} is not JSON that is taken: it holds lists that are more than {DEPTH} deep.")
        comma = codes == _COMMA
        number = ~(opening | comma | (codes == _CLOSE) | _SPACES[codes])
        innermost = innermost or int(depths[number.argmax()])
        if (depths[number] != innermost).any():
            raise _ragged(name)
        values = _numbers(body[start:end], name, is_last=bool(ends.size))
        numbers[read : read + len(values)] = values
        found = depths[comma]
        commas[read : read + len(found)] = found
        read += len(values)
        opens += int(opening.sum())
        depth, start = int(depths[-1]), end
        if ends.size:
            break
    else:
        raise _ragged(name)
    return _shaped(numbers[:read], commas[: read - 1], opens, innermost, name), start


def _numbers(piece: bytes, name: str, *, is_last: bool) -> DoubleArray:
    """Parse the numbers of a piece, which ends with a comma unless it `is_last`; ignore brackets."""
    text = piece.translate(_WITHOUT_BRACKETS)
    values = _parse(b"[%b]" % (text if is_last else text[:-1]), name)
    if not set(map(type, values)) <= {int, float}:
        raise wrong(f"{name} holds a long list of others than numbers.")
    try:
        return np.array(values, np.float64)
    except OverflowError as error:
        raise wrong(f"{name} holds a number that is too large.") from error


def _shaped(numbers: DoubleArray, commas: npt.NDArray[np.int8], opens: int, innermost: int, name: str) -> DoubleArray:
    """Give `numbers` the shape that the depths of the commas between them imply; raises InvalidInput."""
    lists = [1]
    for depth in range(1, innermost + 1):
        lists.append(int((commas == depth).sum()) + lists[-1])
    shape = tuple(total // each for each, total in pairwise(lists))
    expected = np.full(len(numbers), innermost, np.int8)
    size = 1
    for length in reversed(shape[1:]):
        size *= length
        expected[size - 1 :: size] -= 1
    if lists[-1] != numbers.size or sum(lists[:-1]) != opens or not np.array_equal(expected[:-1], commas):
        raise _ragged(name)
    return numbers.reshape(shape)


def _ragged(name: str) -> Exception:
    return wrong(f"{name} holds a long list whose lists are not all of one length, or are not closed.")


def _put_back(document: Any, lists: dict[str, DoubleArray]) -> Any:
    if isinstance(document, str):
        return lists.get(document, document)
    if isinstance(document, list):
        return [_put_back(value, lists) for value in document]
    if isinstance(document, dict):
        return {name: _put_back(value, lists) for name, value in document.items()}
    return document
