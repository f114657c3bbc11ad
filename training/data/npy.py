"""An array of images in a .npy file, larger than memory if need be."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.dataset import NO_LABEL, DataError, Dataset
from training.data.split import positions
from training.data.stored import BATCH_BYTES, load_stored
from training.data.tree import printable

WANTED = "uint8 (0 to 255) or floating (0 to 1) is wanted"


def load_npy(path: Path, cache_dir: Path) -> tuple[Dataset, Dataset]:
    """Training and test set of an array (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 or floating in [0, 1].

    About a tenth, chosen by a hash of each image's pixels, is the test set. The images are kept, as uint8, in
    `cache_dir`. Raises DataError.
    """
    array = Array(path)
    return load_stored(array, printable(path.stem), torch.full((array.shape[0],), NO_LABEL), cache_dir)


def map_array(path: Path) -> NDArray[Any]:
    """The array at `path`, mapped; raises DataError where the file is not one array."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}; a .npy file is wanted.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; a .npy file is wanted.")
    if zipfile.is_zipfile(path):
        raise DataError(f"{path} is an archive (.npz) of arrays: save the one with the images by numpy.save.")
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy's parser of the header raises what it trips over
        raise DataError(f"{path} cannot be read as a .npy file of images: {error}.") from error
    return array


class Array:
    """The images of a .npy file, mapped anew for each pass: the pages that a map has touched count as the process's."""

    hashed = "pixels"

    def __init__(self, path: Path) -> None:
        self.path = path
        array = self._images()
        count, channels, height, width = array.shape
        self.shape = count, channels, height, width
        self._rows = max(1, BATCH_BYTES // array[0].nbytes)

    def state(self) -> str:
        """Of the file's path, size and time."""
        state = self.path.stat()
        told = f"{self.path.absolute()!r} {self.shape} {state.st_size} {state.st_mtime_ns}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def positions(self) -> Tensor:
        """By the bytes of each image as uint8 (C, H, W); raises DataError where one is NaN or not from 0 to 1."""
        return torch.cat([positions(batch) for batch in self.batches(torch.arange(self.shape[0]))])

    def batches(self, order: Tensor) -> Iterator[Tensor]:
        """As `training.data.stored.Source` has it."""
        array = self._images()
        for rows in order.split(self._rows):
            batch = array[rows.numpy()]
            if batch.dtype != np.uint8:
                if not ((batch >= 0) & (batch <= 1)).all():
                    raise self._out_of_range(array)
                batch = np.rint(batch * 255).astype(np.uint8)
            yield torch.from_numpy(np.ascontiguousarray(batch))

    def _images(self) -> NDArray[Any]:
        """The array as (N, C, H, W); raises DataError."""
        array = map_array(self.path)
        shape, dtype = array.shape, array.dtype
        if array.ndim == 3:
            array = array[:, None]
        elif array.ndim == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
            array = array.transpose(0, 3, 1, 2)
        if array.ndim != 4 or array.shape[1] not in (1, 3) or len(array) < 2 or 0 in shape:
            raise DataError(
                f"{self.path} holds an array of shape {shape}; (N, H, W), (N, C, H, W) or (N, H, W, C) with C 1 or 3 "
                "and at least 2 images is wanted."
            )
        if dtype != np.uint8 and dtype.kind != "f":
            raise DataError(f"{self.path} holds {dtype} of shape {shape}; {WANTED}: convert it with astype.")
        return array

    def _out_of_range(self, array: NDArray[Any]) -> DataError:
        """What is wrong with floating values, for the whole array."""
        what = f"{self.path} holds {array.dtype} of shape {map_array(self.path).shape}"
        low, high = np.inf, -np.inf
        for start in range(0, len(array), self._rows):
            batch = array[start : start + self._rows]
            if np.isnan(batch).any():
                image = start + int(np.isnan(batch).any((1, 2, 3)).argmax())
                return DataError(f"{what} with NaN, first in image {image}; {WANTED}: remove or replace what is NaN.")
            low, high = min(low, batch.min()), max(high, batch.max())
        mend = "divide it by 255" if low >= 0 and high <= 255 else "scale it"
        return DataError(f"{what} with values from {low:g} to {high:g}; {WANTED}: {mend}.")
