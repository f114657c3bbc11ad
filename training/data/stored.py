"""Decoded images in one file of uint8, which is memory-mapped.

Decoding takes longer than training, so it is done once, batch by batch. The mapped file may be larger than memory, and
later changes of the original files do not affect the training.

The file contains the positions (`training.data.split`) of the images in the order of the source, N float64 numbers, and
then the images (N, C, H, W), lowest position first, so that each part of a data set is a slice.
"""

from __future__ import annotations

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
"""Bytes of images that are converted at a time: small against memory, large against the costs of a call."""


class Source(Protocol):
    """Images that can be read in any order."""

    @property
    def path(self) -> Path:
        """The file or the folder."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape (N, C, H, W) of all images."""

    @property
    def hashed(self) -> str:
        """What the positions are hashes of, as in `Origin`."""

    def state(self) -> str:
        """Return a string that changes with the files and the shape; raises OSError."""

    def positions(self) -> Tensor:
        """Return the position of each image, float64 (N,); raises DataError."""

    def batches(self, order: Tensor) -> Iterator[Tensor]:
        """Read the images in `order`, int64 (N,), as batches of uint8 (n, C, H, W); raises DataError."""


def load_stored(source: Source, name: str, labels: Tensor, cache_dir: Path) -> tuple[Dataset, Dataset]:
    """Decode `source` into a file, unless it exists already, and map that file.

    Args:
        source: The images.
        name: Name of the data set.
        labels: Labels in the order of the source, int64 (N,).
        cache_dir: Folder for the file.

    Returns:
        Training and test set; the test set is about TEST_SHARE of all images.

    Raises:
        DataError: An image cannot be read, all are equal, or the file cannot be written.

    """
    state = source.state()
    path = cache_dir / "decoded" / f"{source.path.name}-{state}.uint8"
    if not path.exists():
        _write(path, source, state)
    count = source.shape[0]
    content = torch.from_numpy(np.memmap(path, np.uint8, "c"))  # torch.from_file only takes UTF-8 paths
    positions, order = content[: 8 * count].view(torch.float64).sort(stable=True)
    origin = Origin(fingerprint(positions), source.hashed, TEST_SHARE)
    images = content[8 * count :].view(source.shape)
    return Dataset(name, images, labels[order], positions=positions, origin=origin).split_test()


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
            raise DataError(f"{source.path} changed while it was read: start again when no program writes to it.")
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
