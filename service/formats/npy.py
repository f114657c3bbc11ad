"""NumPy's .npy format (NEP 1), without pickles."""

import io
import re
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from service.errors import UnreadableBody
from service.formats.arrays import Array, Format, check_dtype

MEDIA_TYPE = "application/x-npy"
VERSIONS = ((1, 0), (2, 0), (3, 0))
"""Supported versions of the format. 3.0 differs from 2.0 only in field names of structured types."""
HEADER_BYTES = 256
"""Largest header; plain arrays have 128 bytes. NumPy parses headers as Python literals, which is slow: cache them."""
PYTHON_2 = re.compile(rb"\dL")
"""A long integer of Python 2, for which NumPy uses another parser and warns."""


def read_npy(body: bytes) -> Array:
    """Read an array, read-only, uint8 or floating; check the header against the length of the body first."""
    length = body[8:10] if body[6:7] == b"\x01" else body[8:12]  # length of the header: 2 bytes in version 1, else 4
    start = 8 + len(length) + int.from_bytes(length, "little")
    if start > HEADER_BYTES:
        limit = f"its header has more than the {HEADER_BYTES} bytes that are taken"
        raise UnreadableBody(f"The body is not the npy file of a plain array: {limit}.")
    shape, fortran_order, dtype = _read_head(body[:start])
    check_dtype(dtype)
    received, expected = len(body) - start, prod(shape) * dtype.itemsize
    if any(type(size) is not int or size < 0 for size in shape) or received != expected:
        size_text = expected if abs(expected) < 2**63 else "more"  # Python may refuse to format the number
        raise UnreadableBody(
            f"The body is not a whole npy file: {received} bytes follow a header that declares {size_text}."
        )
    try:
        return np.frombuffer(body, dtype, offset=start).reshape(shape, order="F" if fortran_order else "C")
    except ValueError as error:  # too many dimensions, or too long ones beside one of 0
        raise UnreadableBody("The body is not an npy file: no array has the shape that its header declares.") from error


@lru_cache(maxsize=1024)
def _read_head(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether the order is Fortran's, and dtype."""
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        if version in VERSIONS and not PYTHON_2.search(head):
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(stream)
    except Exception as error:  # NumPy's parser raises exceptions of many types
        raise UnreadableBody("The body is not an npy file: its header cannot be read.") from error
    if version in VERSIONS:
        raise UnreadableBody("The body is not an npy file: its header cannot be read.")
    known = ", ".join(f"{major}.{minor}" for major, minor in VERSIONS)
    raise UnreadableBody(f"The npy file is of version {version[0]}.{version[1]}; {known} are supported.")


def write_npy(array: Array) -> bytes:
    """Write `array` as an .npy file."""
    head = io.BytesIO()
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return b"".join((head.getvalue(), array.data))  # copies the pixels only once


def _write(arrays: Mapping[str, Array], single: bool) -> bytes:
    """Write one array: the images, or the only array, or else all of them stacked, (N, arrays, …)."""
    if "pixels" in arrays:
        array = arrays["pixels"]
    else:
        array = np.stack(list(arrays.values()), axis=1) if len(arrays) > 1 else next(iter(arrays.values()))
    return write_npy(array[0] if single else array)


FORMAT = Format(MEDIA_TYPE, lambda body, _: read_npy(body), _write)
