"""What every input to encode comes down to: parts, and in them rows with an id and an image or a sentence."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa
from torch import Tensor

SHARD_ROWS = 16_384
"""Images that are encoded, written and, after a cut, done again together."""

Shape = tuple[int, int, int]
"""C×H×W."""


class Shard(NamedTuple):
    """The rows of an input from `start` to before `stop`."""

    number: int
    start: int
    stop: int
    read_group: int
    """The parts of one can only be read from the beginning of the first of them, and so are read together."""


class Rows(NamedTuple):
    """Consecutive rows, n of them, of which m gave an image."""

    ids: pa.Array
    """(n,)"""
    readable: pa.BooleanArray
    """(n,): which are the m."""
    images: Tensor
    """(m, C, H, W), uint8 or float32 in [0, 1]."""
    errors: list[str]
    """What is wrong with the n − m others, in order."""


class Source(Protocol):
    """An input: picklable, opened where it is read."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def fingerprint(self) -> str:
        """Another one for another input, and for a changed one."""

    @property
    def id_type(self) -> pa.DataType:
        """Of `Rows.ids`."""

    @property
    def shards(self) -> Sequence[Shard]:
        """Each row is in one of them."""

    @property
    def is_decoded(self) -> bool:
        """Are its images in a file as they are, so that reading takes no time?"""

    def read(self, shards: Sequence[Shard], batch_size: int) -> Iterator[tuple[Shard, Rows]]:
        """Read `shards` of one sweep, at most `batch_size` rows of one of them at a time.

        Raises DataError where the input itself can no longer be read.
        """


def equal_shards(rows: int) -> list[Shard]:
    """Parts of SHARD_ROWS, the last one of what is left, each a sweep of its own."""
    starts = range(0, rows, SHARD_ROWS)
    return [
        Shard(number, start, min(start + SHARD_ROWS, rows), read_group=number) for number, start in enumerate(starts)
    ]


def read_groups(shards: Sequence[Shard]) -> list[list[Shard]]:
    """`shards`, those of one sweep together."""
    return [list(together) for _, together in groupby(shards, attrgetter("read_group"))]


def batches(shards: Sequence[Shard], batch_size: int) -> Iterator[tuple[Shard, range]]:
    """The rows of `shards`, at most `batch_size` of one of them at a time."""
    for shard in shards:
        for start in range(shard.start, shard.stop, batch_size):
            yield shard, range(start, min(start + batch_size, shard.stop))


def fingerprint(files: Iterator[tuple[str, os.stat_result]]) -> str:
    """Of names, sizes and times of change."""
    digest = hashlib.sha256(str(SHARD_ROWS).encode())
    for name, state in files:
        digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
