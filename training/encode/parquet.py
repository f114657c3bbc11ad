"""Images in Parquet files with a column of encoded pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from training.data.dataset import DataError
from training.encode.pictures import decode
from training.encode.rows import SHARD_ROWS, Rows, Shape, Shard, fingerprint
from vae.metadata import Fit

READ_AHEAD = 2**20
"""Read buffer of a column, in bytes."""


class Columns(NamedTuple):
    """The columns to read."""

    image: str
    """Path in the schema: `image`, or `image.bytes` for a struct, as in Hugging Face datasets."""
    id_type: pa.DataType | None
    """Type of the column `id`; None without that column."""

    @property
    def names(self) -> list[str]:
        """The paths of all columns."""
        return [self.image] if self.id_type is None else [self.image, "id"]


class RowGroups(NamedTuple):
    """Consecutive row groups of a file."""

    file: Path
    numbers: range
    start: int
    """Index of the first row."""


@dataclass(frozen=True)
class Parquet:
    """One or more files. The id of an image is its value in the column `id`, or else its row index."""

    path: Path
    fingerprint: str
    shape: Shape
    fit: Fit
    columns: Columns
    shards: Sequence[Shard]
    row_groups: Sequence[RowGroups]
    """Row groups of each read group. Parquet reads a row group from its beginning only."""
    is_decoded = False

    @property
    def id_type(self) -> pa.DataType:
        """Type of the ids."""
        return self.columns.id_type or pa.int64()

    def read(self, shards: Sequence[Shard], batch_size: int) -> Iterator[tuple[Shard, Rows]]:
        """Read and decode batch by batch, so that no more than a batch is in memory."""
        file, numbers, start = self.row_groups[shards[0].read_group]
        try:
            with pq.ParquetFile(file, buffer_size=READ_AHEAD, pre_buffer=False) as table:
                for batch in table.iter_batches(batch_size, numbers, self.columns.names, use_threads=False):
                    for shard in shards:
                        first, stop = max(shard.start, start), min(shard.stop, start + len(batch))
                        if first < stop:
                            yield shard, self._decode(batch[first - start : stop - start], first)
                    start += len(batch)
                    if start >= shards[-1].stop:
                        return
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(file, error) from error

    def _decode(self, batch: pa.RecordBatch, start: int) -> Rows:
        indices = pa.array(range(start, start + len(batch)), pa.int64())
        ids = indices if self.columns.id_type is None else batch["id"]
        contents = batch[self.columns.image.partition(".")[0]]
        if pa.types.is_struct(contents.type):
            (contents,) = contents.flatten()
        return decode(ids, [value.as_py() or b"" for value in contents], self.shape, self.fit)


def open_parquet(path: Path, files: Sequence[Path], shape: Shape, fit: Fit) -> Parquet:
    """Open `files` as one sequence of rows; raises DataError."""
    columns: Columns | None = None
    shards: list[Shard] = []
    row_groups: list[RowGroups] = []
    for file in files:
        try:
            metadata = pq.read_metadata(file)
            own = _columns(file, metadata.schema.to_arrow_schema())
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(file, error) from error
        columns = columns or own
        if own != columns:
            raise DataError(
                f"{files[0]} and {file} differ in the columns image or id: encode each in a run of its own."
            )
        first = rows = 0
        for number in range(metadata.num_row_groups):
            rows += metadata.row_group(number).num_rows
            if rows >= SHARD_ROWS or (rows and number == metadata.num_row_groups - 1):
                start = shards[-1].stop if shards else 0
                for cut in range(start, start + rows, SHARD_ROWS):
                    shards.append(
                        Shard(len(shards), cut, min(cut + SHARD_ROWS, start + rows), read_group=len(row_groups))
                    )
                row_groups.append(RowGroups(file, range(first, number + 1), start))
                first, rows = number + 1, 0
    if columns is None:
        raise DataError(f"{path} holds no .parquet files.")
    identity = fingerprint((str(file.relative_to(path)), file.stat()) for file in files)
    return Parquet(path, identity, shape, fit, columns, shards, row_groups)


def _columns(file: Path, schema: pa.Schema) -> Columns:
    """Find the columns: the images are in `image`, or in the only column of bytes."""
    paths = {}
    for field in schema:
        in_struct = pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        if _is_bytes(field.type.field("bytes").type if in_struct else field.type) and field.name != "id":
            paths[field.name] = f"{field.name}.bytes" if in_struct else field.name
    if not paths:
        there = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise DataError(f"{file} has no column of image bytes; its columns are {there}.")
    if len(paths) > 1 and "image" not in paths:
        raise DataError(f"{file} has several columns of bytes, {', '.join(paths)}: call the one to encode `image`.")
    image = paths.get("image", next(iter(paths.values())))
    return Columns(image, schema.field("id").type if "id" in schema.names else None)


def _is_bytes(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary())


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()).rstrip(".")
    return DataError(f"{file} cannot be read as Parquet: {reason}. Repair or remove it.")
