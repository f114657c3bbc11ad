import io
from math import prod

import numpy as np
import pytest
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from service.errors import InvalidInput, UnreadableBody
from service.formats.npy import _read_head as remembered
from service.formats.npy import read_npy, write_npy
from tests.service.pictures import npy


@pytest.mark.parametrize("dtype", ["u1", "<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (2, 1, 5, 4), (0, 3)], ids=str)
def test_arrays_come_as_they_are(dtype: str, order: str, shape: tuple[int, ...]) -> None:
    array = (100 * np.random.default_rng(0).random(shape)).astype(dtype, order="F" if order == "F" else "C")
    back = read_npy(npy(array))
    assert (back.shape, back.dtype) == (shape, array.dtype)
    assert np.array_equal(back, array)
    assert not back.flags.writeable


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_the_format(version: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    npy_format.write_array(buffer, np.arange(6.0).reshape(2, 3), version)
    assert read_npy(buffer.getvalue()).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("version", [(0, 0), (1, 1), (2, 1), (4, 0), (255, 255)])
def test_other_versions_are_refused(version: tuple[int, int]) -> None:
    """Even where the header is laid out as a known version has it."""
    body = io.BytesIO()
    npy_format.write_array(body, np.zeros((2, 3)), (1, 0) if version[0] == 1 else (2, 0))
    with pytest.raises(UnreadableBody, match=rf"version {version[0]}\.{version[1]}; 1\.0, 2\.0, 3\.0 are supported"):
        read_npy(npy_format.MAGIC_PREFIX + bytes(version) + body.getvalue()[8:])


@pytest.mark.parametrize(
    "array", [np.array([{}]), np.array(["a"]), np.zeros(1, "i8"), np.zeros(1, "c8"), np.zeros(1, "M8[s]")]
)
def test_other_types_are_refused(array: NDArray[np.generic]) -> None:
    with pytest.raises(InvalidInput, match=r"dtype is .*; uint8 or a floating one is expected"):
        read_npy(npy(array))


def test_a_length_that_is_not_the_headers() -> None:
    body = npy(np.zeros((4, 3), np.float32))
    for wrong in (body[:-1], body + b"\0"):
        with pytest.raises(UnreadableBody, match="follow a header that declares 48"):
            read_npy(wrong)


def test_writes_what_numpy_reads() -> None:
    array = np.random.default_rng(0).random((2, 3, 4), np.float32)[:, ::2]
    assert np.array_equal(np.load(io.BytesIO(write_npy(array)), allow_pickle=False), array)


@pytest.mark.parametrize("shape", [(0, 10**30), (0, 2**63), (0, 2**40, 2**40)], ids=["10**30", "2**63", "2**80"])
def test_shapes_that_no_array_has(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnreadableBody, match="no array has the shape"):
        read_npy(with_shape(str(shape), prod(shape)))


def test_a_size_that_cannot_be_written() -> None:
    """Python writes no number of more than 4300 digits."""
    huge = "1" + "0" * 90
    with pytest.raises(UnreadableBody, match=r"0 bytes follow a header that declares more\.$"):
        read_npy(with_shape(f"({huge}, {huge})", 0))


def test_long_headers_are_refused() -> None:
    """NumPy parses them for milliseconds, and each caller could fill the memory with them."""
    assert read_npy(with_shape("(1,)", 1)).tolist() == [0]
    before = remembered.cache_info().currsize
    for shape in ("(" + "1," * 2000 + ")", "(1,)" + " " * 300, "((" * 400):
        with pytest.raises(UnreadableBody, match="256 bytes"):
            read_npy(with_shape(shape, 1))
    assert remembered.cache_info().currsize == before


def test_python_2_is_not_parsed() -> None:
    """NumPy would, with a warning."""
    with pytest.raises(UnreadableBody, match="header cannot be read"):
        read_npy(with_shape("(1L,)", 1))


def with_shape(shape: str, size: int) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(size)
