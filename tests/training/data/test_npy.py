"""Arrays are read in any usual layout, one batch in memory at a time; errors say how to correct the array."""

import multiprocessing
import tracemalloc
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import pytest
import torch

from training.config.fit_config import FitConfig
from training.data import npy
from training.data.dataset import DataError
from training.data.load import load
from training.fitting.initialization import new_model


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.arange(20 * 12, dtype=np.uint8).reshape(20, 3, 4), (1, 3, 4)),
        (np.arange(20 * 36, dtype=np.int64).astype(np.uint8).reshape(20, 3, 3, 4), (3, 3, 4)),
        (np.linspace(0, 1, 20 * 75, dtype=np.float32).reshape(20, 5, 5, 3), (3, 5, 5)),
    ],
)
def test_an_array_is_read_in_any_usual_layout(array: np.ndarray, shape: tuple[int, int, int], tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", array)
    train, test = load(f"npy:{tmp_path / 'images.npy'}", tmp_path)
    assert (len(train) + len(test), train.image_shape) == (20, shape)
    pixels = torch.cat([train.images, test.images]).sum().item()
    assert pixels == (array.sum() if array.dtype == np.uint8 else np.rint(array * 255).sum())


NAN = np.zeros((9, 4, 4), np.float32)
NAN[7, 2, 1] = np.nan
BYTES = np.arange(9 * 16, dtype=np.float64).reshape(9, 4, 4)


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.zeros((9, 2, 4, 4), np.uint8), r"\(9, 2, 4, 4\)"),
        (np.zeros((1, 4, 4), np.uint8), "at least 2"),
        (np.zeros((9, 4, 4), np.int32), r"holds int32 of shape \(9, 4, 4\); .* is expected: convert it with astype"),
        (NAN, r"holds float32 of shape \(9, 4, 4\) with NaN, first in image 7; .*: remove or replace the NaN"),
        (BYTES, r"holds float64 of shape \(9, 4, 4\) with values from 0 to 143; .*: divide it by 255"),
        (BYTES[:, :, :, None] / 100 - 1, r"of shape \(9, 4, 4, 1\) with values from -1 to 0.43; .*: scale it"),
    ],
)
def test_a_wrong_array_is_an_error(
    array: np.ndarray, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy, "BATCH_BYTES", 200)
    np.save(tmp_path / "images.npy", array)
    with pytest.raises(DataError, match=advice):
        load(f"npy:{tmp_path / 'images.npy'}", tmp_path)
    assert not list(tmp_path.glob("decoded/*"))


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"no array", r"images\.npy cannot be read as a \.npy file of images"),
        (b"", r"images\.npy is empty; a \.npy file is expected"),
        (b"PK\3\4 no archive", r"images\.npy cannot be read as a \.npy file of images"),
    ],
)
def test_a_file_without_an_array_is_an_error(content: bytes, advice: str, tmp_path: Path) -> None:
    (tmp_path / "images.npy").write_bytes(content)
    with pytest.raises(DataError, match=advice):
        load(f"npy:{tmp_path / 'images.npy'}", tmp_path)


def test_a_path_without_an_array_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npy does not exist; a \.npy file is expected"):
        load(f"npy:{tmp_path / 'none.npy'}", tmp_path)
    with pytest.raises(DataError, match=r" is a folder; a \.npy file is expected"):
        load(f"npy:{tmp_path}", tmp_path)


def test_an_archive_of_arrays_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=BYTES)
    with pytest.raises(DataError, match=r"images\.npz is an archive \(\.npz\) of arrays: save the array of images"):
        load(f"npy:{tmp_path / 'images.npz'}", tmp_path)


def anonymous_memory() -> int:
    """Bytes of this process that are not mapped from a file."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def measure_memory(folder: Path) -> tuple[int, int]:
    """Load the array in `folder`; returns the peak of traced memory, and by how much the process has grown."""
    before = anonymous_memory()
    tracemalloc.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npy, "BATCH_BYTES", 2**18)
        train = load(f"npy:{folder / 'images.npy'}", folder)[0].split(1 / 12)[0]
    new_model(FitConfig(hidden_dim=4), train)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert train.take(torch.arange(len(train))[:100]).shape == (100, 1, 32, 32)
    return peak, anonymous_memory() - before


@pytest.fixture(scope="module")
def process() -> Iterator[Pool]:
    """A process whose memory no other test uses."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_an_array_is_not_held_in_memory(dtype: type[np.generic], tmp_path: Path, process: Pool) -> None:
    size = 2**24  # bytes of pixels
    array = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", dtype, (size // 1024, 32, 32))
    array[::2, 0] = 1
    array[:, 1] = np.arange(size // 1024)[:, None] % 2
    del array
    peak, growth = process.apply(measure_memory, (tmp_path,))
    assert peak < size / 4
    assert growth < size / 4


def test_an_array_that_changes_while_it_is_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "images.npy"
    np.save(path, np.arange(20 * 16, dtype=np.uint8).reshape(20, 4, 4))
    batches = npy.Array.batches

    def write_meanwhile(array: npy.Array, order: torch.Tensor) -> object:
        np.save(path, np.zeros((20, 4, 4), np.uint8))
        return batches(array, order)

    monkeypatch.setattr(npy.Array, "batches", write_meanwhile)
    with pytest.raises(DataError, match=r"images\.npy changed while it was read: start again"):
        load(f"npy:{path}", tmp_path)
    assert not list(tmp_path.glob("decoded/*"))


def test_later_changes_of_the_file_have_no_effect(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    np.save(path, np.arange(20 * 16, dtype=np.int64).astype(np.uint8).reshape(20, 4, 4))
    train, _ = load(f"npy:{path}", tmp_path)
    before = train.images.clone()
    path.write_bytes(b"")
    assert train.images.equal(before)
