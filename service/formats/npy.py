"""Bytes ↔ arrays in NumPy's .npy format (NEP 1). Never a pickle."""

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
"""Of the format. The third differs from the second in the encoding of field names, which only structured types have."""
HEADER_BYTES = 256
"""Of a header; those of plain arrays have 128. NumPy parses it as Python, which takes long, so it is remembered."""
PYTHON_2 = re.compile(rb"\dL")
"""A long integer of Python 2, which NumPy reads by another parser, with a warning."""


def read_npy(body: bytes) -> Array:
    """The array in `body`, read-only, uint8 or floating; its header is checked against its length first."""
    length = body[8:10] if body[6:7] == b"\x01" else body[8:12]  # of the header; the first version has two bytes for it
    start = 8 + len(length) + int.from_bytes(length, "little")
    if start > HEADER_BYTES:
        limit = f"its header has more than the {HEADER_BYTES} bytes that are taken"
        raise UnreadableBody(f"The body is not the npy file of a plain array: {limit}.")
    shape, fortran_order, dtype = _read_head(body[:start])
    check_dtype(dtype)
    came, wanted = len(body) - start, prod(shape) * dtype.itemsize
    if any(type(size) is not int or size < 0 for size in shape) or came != wanted:
        told = wanted if abs(wanted) < 2**63 else "more"  # Python may refuse to write the number
        raise UnreadableBody(f"The body is not a whole npy file: {came} bytes follow a header that tells of {told}.")
    try:
        return np.frombuffer(body, dtype, offset=start).reshape(shape, order="F" if fortran_order else "C")
    except ValueError as error:  # too many dimensions, or, where one is 0, too long ones
        raise UnreadableBody("The body is not an npy file: no array has the shape that its header tells of.") from error


@lru_cache(maxsize=1024)
def _read_head(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, is it in Fortran's order, dtype."""
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        if version in VERSIONS and not PYTHON_2.search(head):
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(stream)
    except Exception as error:  # NumPy's header parser raises whatever it trips over
        raise UnreadableBody("The body is not an npy file: its header cannot be read.") from error
    if version in VERSIONS:
        raise UnreadableBody("The body is not an npy file: its header cannot be read.")
    known = ", ".join(f"{major}.{minor}" for major, minor in VERSIONS)
    raise UnreadableBody(f"The npy file is of version {version[0]}.{version[1]}; {known} are supported.")


def write_npy(array: Array) -> bytes:
    """`array` as an .npy file."""
    head = io.BytesIO()
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return b"".join((head.getvalue(), array.data))  # the pixels are copied once


def _write(arrays: Mapping[str, Array], single: bool) -> bytes:
    """The file has one array: the images, or the only one there is, or else all, side by side, (N, arrays, …)."""
    if "pixels" in arrays:
        array = arrays["pixels"]
    else:
        array = np.stack(list(arrays.values()), axis=1) if len(arrays) > 1 else next(iter(arrays.values()))
    return write_npy(array[0] if single else array)


FORMAT = Format(MEDIA_TYPE, lambda body, _: read_npy(body), _write)
