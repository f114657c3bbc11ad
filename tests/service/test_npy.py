import io

import numpy as np
import pytest
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from service.errors import InvalidInput, UnreadableBody
from service.npy import read_npy, write_npy
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


@pytest.mark.parametrize(
    "array", [np.array([{}]), np.array(["a"]), np.zeros(1, "i8"), np.zeros(1, "c8"), np.zeros(1, "M8[s]")]
)
def test_other_types_are_refused(array: NDArray[np.generic]) -> None:
    with pytest.raises(InvalidInput, match=r"dtype is .*; uint8 or a floating one is wanted"):
        read_npy(npy(array))


def test_a_length_that_is_not_the_headers() -> None:
    body = npy(np.zeros((4, 3), np.float32))
    for wrong in (body[:-1], body + b"\0"):
        with pytest.raises(UnreadableBody, match="follow a header that tells of 48"):
            read_npy(wrong)


def test_writes_what_numpy_reads() -> None:
    array = np.random.default_rng(0).random((2, 3, 4), np.float32)[:, ::2]
    assert np.array_equal(np.load(io.BytesIO(write_npy(array)), allow_pickle=False), array)
