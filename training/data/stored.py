"""Images kept as uint8 in one file, in the order of their content, and mapped from there.

Reading pictures, or converting an array, takes longer than learning from the result. It is done once, batch by batch,
into a file that is read like memory: what fits stays in the page cache, what does not is read from disk. The training
is not disturbed by what becomes of the originals meanwhile.

The file has the position (training.split) of each image in the order of the source, N float64 numbers, and then the
images (N, C, H, W), lowest position first, so that each part of a data set is a slice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.data.dataset import DataError, Dataset
from training.data.split import TEST_SHARE, Origin, fingerprint

BATCH_BYTES = 2**24
"""Bytes of images that are converted at a time."""


class Source(Protocol):
    """Images that can be read in any order."""

    @property
    def path(self) -> Path:
        """Where they lie."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N×C×H×W."""

    @property
    def hashed(self) -> str:
        """What the positions are of, as in `Origin`."""

    def state(self) -> str:
        """Another one for other files, for changed ones, and for another shape; raises OSError."""

    def positions(self) -> Tensor:
        """Of each image, (N,) float64; raises DataError."""

    def batches(self, order: Tensor) -> Iterator[Tensor]:
        """The images in `order`, int64 (N,), uint8 (n, C, H, W) at a time; raises DataError."""


def load_stored(source: Source, name: str, labels: Tensor, cache_dir: Path) -> tuple[Dataset, Dataset]:
    """Training and test set of `source`, about TEST_SHARE of it, called `name`, with its `labels` (N,).

    Its images are read into a file in `cache_dir`, unless that was done before, and mapped from there. Raises
    DataError.
    """
    state = source.state()
    path = cache_dir / "decoded" / f"{source.path.name}-{state}.uint8"
    if not path.exists():
        _write(path, source, state)
    count = source.shape[0]
    content = torch.from_numpy(np.memmap(path, np.uint8, "c"))  # torch.from_file takes no path that is not UTF-8
    positions, order = content[: 8 * count].view(torch.float64).sort(stable=True)
    low, high = positions[0].item(), positions[-1].item()
    if low == high:
        raise DataError(f"All images of {name} are the same: at least 2 different ones are wanted.")
    share = TEST_SHARE if low < TEST_SHARE <= high else math.nextafter(low, 1)  # no part of a small set is empty
    origin = Origin(fingerprint(positions), source.hashed, TEST_SHARE)
    return Dataset(
        name, content[8 * count :].view(source.shape), labels[order], positions=positions, origin=origin
    ).split(share)


def _write(path: Path, source: Source, state: str) -> None:
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        positions = source.positions()
        with partial.open("wb") as file, tqdm(total=len(positions), desc="decoding", unit=" pictures") as bar:
            file.write(positions.numpy().tobytes())
            for batch in source.batches(positions.argsort(stable=True)):
                file.write(batch.numpy().tobytes())
                bar.update(len(batch))
        if not _is_unchanged(source, state):
            raise DataError(f"{source.path} changed while it was read: start again when nothing writes to it.")
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}. Free the disk, or change --data-dir.") from error
    finally:
        if partial.exists():
            partial.unlink()


def _is_unchanged(source: Source, state: str) -> bool:
    try:
        return source.state() == state
    except OSError:
        return False
