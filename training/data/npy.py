"""Images of a .npy file, which may be larger than memory."""

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

from training.data.arrays import EXPECTED, to_uint8, view_images
from training.data.dataset import NO_LABEL, DataError, Dataset
from training.data.split import positions
from training.data.stored import BATCH_BYTES, load_stored
from training.data.tree import printable


def load_npy(path: Path, cache_dir: Path) -> tuple[Dataset, Dataset]:
    """Load an array of images.

    Args:
        path: A .npy file with (N, H, W), (N, C, H, W) or (N, H, W, C), C = 1 or 3, uint8 or floating in [0, 1].
        cache_dir: Folder for a copy of the images as uint8.

    Returns:
        Training and test set without labels. The test set is about a tenth, chosen by a hash of the pixels of each
        image.

    Raises:
        DataError: The file is no such array, or the copy cannot be written.

    """
    array = Array(path)
    return load_stored(array, printable(path.stem), torch.full((array.shape[0],), NO_LABEL), cache_dir)


def map_array(path: Path) -> NDArray[Any]:
    """Map the array of a .npy file, read-only; raises DataError if the file is not a .npy file."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}; a .npy file is expected.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; a .npy file is expected.")
    if zipfile.is_zipfile(path):
        raise DataError(f"{path} is an archive (.npz) of arrays: save the array of images with numpy.save.")
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy's header parser raises many types of exceptions
        raise DataError(f"{path} cannot be read as a .npy file of images: {error}.") from error
    return array


class Array:
    """Source of the images of a .npy file.

    Maps the file again for each pass, because pages read through an open map count as memory of the process.
    """

    hashed = "pixels"

    def __init__(self, path: Path) -> None:
        self.path = path
        array = self._images()
        count, channels, height, width = array.shape
        self.shape = count, channels, height, width
        self._rows = max(1, BATCH_BYTES // array[0].nbytes)

    def state(self) -> str:
        """Hash the path, size and modification time of the file, and the shape."""
        state = self.path.stat()
        text = f"{self.path.absolute()!r} {self.shape} {state.st_size} {state.st_mtime_ns}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def positions(self) -> Tensor:
        """Hash the pixels of each image as uint8 (C, H, W); raises DataError for NaN and for values outside 0 to 1."""
        return torch.cat([positions(batch) for batch in self.batches(torch.arange(self.shape[0]))])

    def batches(self, order: Tensor) -> Iterator[Tensor]:
        """Read the images in `order` and convert them to uint8."""
        array = self._images()
        for rows in order.split(self._rows):
            batch = to_uint8(array[rows.numpy()])
            if batch is None:
                raise self._out_of_range(array)
            yield torch.from_numpy(np.ascontiguousarray(batch))

    def _images(self) -> NDArray[Any]:
        """View the array as (N, C, H, W); raises DataError for any other layout or type."""
        return view_images(map_array(self.path), str(self.path))

    def _out_of_range(self, array: NDArray[Any]) -> DataError:
        """Describe the NaN or the range of values of the whole array."""
        what = f"{self.path} holds {array.dtype} of shape {map_array(self.path).shape}"
        low, high = np.inf, -np.inf
        for start in range(0, len(array), self._rows):
            batch = array[start : start + self._rows]
            if np.isnan(batch).any():
                image = start + int(np.isnan(batch).any((1, 2, 3)).argmax())
                return DataError(f"{what} with NaN, first in image {image}; {EXPECTED}: remove or replace the NaN.")
            low, high = min(low, batch.min()), max(high, batch.max())
        advice = "divide it by 255" if low >= 0 and high <= 255 else "scale it"
        return DataError(f"{what} with values from {low:g} to {high:g}; {EXPECTED}: {advice}.")
