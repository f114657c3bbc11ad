"""Bytes ↔ arrays in NumPy's .npy format (NEP 1). Never a pickle."""

import io
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import InvalidInput, Problem, UnreadableBody

MEDIA_TYPE = "application/x-npy"


def read_npy(body: bytes) -> npt.NDArray[Any]:
    """The array in `body`, read-only, uint8 or floating; its header is checked against its length first."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    except Exception as error:  # NumPy's header parser raises whatever it trips over
        raise UnreadableBody("The body is not an npy file: its header cannot be read.") from error
    if dtype != np.uint8 and dtype.kind != "f":
        raise InvalidInput(Problem("body", "", f"The array's dtype is {dtype}; uint8 or a floating one is wanted."))
    data = body[stream.tell() :]
    wanted = prod(shape) * dtype.itemsize
    if any(type(size) is not int or size < 0 for size in shape) or len(data) != wanted:
        raise UnreadableBody(
            f"The body is not a whole npy file: {len(data)} bytes follow a header that tells of {wanted}."
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")


def write_npy(array: npt.NDArray[Any]) -> bytes:
    """`array` as an .npy file."""
    head = io.BytesIO()
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return b"".join((head.getvalue(), array.data))  # the pixels are copied once
