"""Inputs of `vae-train encode` as shards of rows; a row has an id and an image or an error."""

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
"""Images per shard: one output file, and the unit that an interrupted run repeats."""

Shape = tuple[int, int, int]
"""C×H×W."""


class Shard(NamedTuple):
    """The rows `start` to `stop` (exclusive) of an input."""

    number: int
    start: int
    stop: int
    read_group: int
    """Shards of one read group are read together, from the beginning of the first."""


class Rows(NamedTuple):
    """n consecutive rows, m of which have an image."""

    ids: pa.Array
    """Ids, (n,)."""
    readable: pa.BooleanArray
    """Which rows have an image, (n,)."""
    images: Tensor
    """Images (m, C, H, W), uint8 or float32 in [0, 1]."""
    errors: list[str]
    """Error messages of the n − m other rows, in order."""


class Source(Protocol):
    """An input. It is picklable and opens its files where it is read."""

    @property
    def path(self) -> Path:
        """Path of the input."""

    @property
    def fingerprint(self) -> str:
        """Changes with the input's files, their sizes and times."""

    @property
    def id_type(self) -> pa.DataType:
        """Type of `Rows.ids`."""

    @property
    def shards(self) -> Sequence[Shard]:
        """All shards; together they cover every row once."""

    @property
    def is_decoded(self) -> bool:
        """Whether the images are stored as arrays, so that reading needs no decoding."""

    def read(self, shards: Sequence[Shard], batch_size: int) -> Iterator[tuple[Shard, Rows]]:
        """Read `shards` of one read group, at most `batch_size` rows of one shard at a time.

        Raises DataError if the input cannot be read any more.
        """


def equal_shards(rows: int) -> list[Shard]:
    """Cut `rows` into shards of SHARD_ROWS, each a read group of its own."""
    starts = range(0, rows, SHARD_ROWS)
    return [
        Shard(number, start, min(start + SHARD_ROWS, rows), read_group=number) for number, start in enumerate(starts)
    ]


def read_groups(shards: Sequence[Shard]) -> list[list[Shard]]:
    """Group `shards` by read group."""
    return [list(together) for _, together in groupby(shards, attrgetter("read_group"))]


def batches(shards: Sequence[Shard], batch_size: int) -> Iterator[tuple[Shard, range]]:
    """Iterate over the rows of `shards` in batches of at most `batch_size` rows of one shard."""
    for shard in shards:
        for start in range(shard.start, shard.stop, batch_size):
            yield shard, range(start, min(start + batch_size, shard.stop))


def fingerprint(files: Iterator[tuple[str, os.stat_result]]) -> str:
    """Hash names, sizes and modification times."""
    digest = hashlib.sha256(str(SHARD_ROWS).encode())
    for name, state in files:
        digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
