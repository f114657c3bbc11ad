"""Images of a .npy file, which may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from training.data.dataset import DataError
from training.data.npy import map_array
from training.encode.rows import Rows, Shape, Shard, batches, equal_shards, fingerprint


@dataclass(frozen=True)
class Npy:
    """An array of images, uint8 or floating in [0, 1]. The id of a row is its index."""

    path: Path
    fingerprint: str
    shape: Shape
    shards: Sequence[Shard]
    id_type = pa.int64()
    is_decoded = True

    def read(self, shards: Sequence[Shard], batch_size: int) -> Iterator[tuple[Shard, Rows]]:
        """Map the file again for each batch, because pages read through an open map count as memory of the process."""
        for shard, rows in batches(shards, batch_size):
            batch = _as_images(map_array(self.path)[rows.start : rows.stop], self.shape)
            readable: NDArray[np.bool_] = np.ones(len(rows), np.bool_)
            if batch.dtype != np.uint8:
                readable = np.all((batch >= 0) & (batch <= 1), axis=(1, 2, 3))
                batch = batch[readable].astype(np.float32)
            errors = ["It has values outside 0 to 1."] * int((~readable).sum())
            ids = pa.array(np.arange(rows.start, rows.stop))
            yield shard, Rows(ids, pa.array(readable), torch.from_numpy(np.array(batch)), errors)


def open_npy(path: Path, shape: Shape) -> Npy:
    """Open the array at `path` in any layout that training reads; raises DataError if its images are not `shape`."""
    array = map_array(path)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(f"{path} holds {array.dtype}; uint8 (0 to 255) or floating (0 to 1) is expected.")
    try:
        _as_images(array[:1], shape)
    except ValueError as error:
        raise DataError(
            f"{path} holds an array of shape {array.shape}; {error} is what the checkpoint takes."
        ) from None
    return Npy(path, fingerprint(iter([(str(array.shape), path.stat())])), shape, equal_shards(len(array)))


def _as_images(array: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """View images in any layout of `shape` as (n, C, H, W); raises ValueError with the possible layouts."""
    channels, height, width = shape
    if array.shape[1:] == shape:
        return array
    if array.shape[1:] == (height, width, channels):
        return array.transpose(0, 3, 1, 2)
    if array.shape[1:] == (height, width) and channels == 1:
        return array[:, None]
    layouts = [shape, (height, width, channels), *([(height, width)] if channels == 1 else [])]
    raise ValueError(" or ".join(f"(N, {', '.join(map(str, layout))})" for layout in layouts))
