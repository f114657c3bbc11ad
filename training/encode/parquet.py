"""Images to encode from Parquet with a column of their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from training.data.dataset import DataError
from training.encode.pictures import decode
from training.encode.rows import PART_ROWS, Rows, Shape, Shard, fingerprint
from vae.metadata import Fit

READ_AHEAD = 2**20
"""Bytes of a column that are held ahead of what is decoded."""


class Columns(NamedTuple):
    """What is read of each file."""

    image: str
    """Path in the schema: `image`, or `image.bytes` where the bytes lie in a struct, as Hugging Face has them."""
    id_type: pa.DataType | None
    """Of the column `id`, where there is one."""

    @property
    def names(self) -> list[str]:
        """All paths."""
        return [self.image] if self.id_type is None else [self.image, "id"]


class RowGroups(NamedTuple):
    """Consecutive row groups of a file."""

    file: Path
    numbers: range
    start: int
    """The first row's index."""


@dataclass(frozen=True)
class Parquet:
    """One file or several; an image's id is what the column `id` says, or else the row's index."""

    path: Path
    fingerprint: str
    shape: Shape
    fit: Fit
    columns: Columns
    parts: Sequence[Shard]
    row_groups: Sequence[RowGroups]
    """Of each sweep: whole ones, because a row group can only be read from its beginning."""
    is_decoded = False

    @property
    def id_type(self) -> pa.DataType:
        """Of the column `id`, or of an index."""
        return self.columns.id_type or pa.int64()

    def read(self, parts: Sequence[Shard], batch_size: int) -> Iterator[tuple[Shard, Rows]]:
        """Decode row after row: of a row group no more than a batch is in memory."""
        file, numbers, start = self.row_groups[parts[0].read_group]
        try:
            with pq.ParquetFile(file, buffer_size=READ_AHEAD, pre_buffer=False) as table:
                for batch in table.iter_batches(batch_size, numbers, self.columns.names, use_threads=False):
                    for part in parts:
                        first, stop = max(part.start, start), min(part.stop, start + len(batch))
                        if first < stop:
                            yield part, self._decode(batch[first - start : stop - start], first)
                    start += len(batch)
                    if start >= parts[-1].stop:
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
    """The rows of `files`, one after the other; raises DataError."""
    columns: Columns | None = None
    parts: list[Shard] = []
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
                f"{files[0]} and {file} differ in the columns image or id: encode them one after the other."
            )
        first = rows = 0
        for number in range(metadata.num_row_groups):
            rows += metadata.row_group(number).num_rows
            if rows >= PART_ROWS or (rows and number == metadata.num_row_groups - 1):
                start = parts[-1].stop if parts else 0
                for cut in range(start, start + rows, PART_ROWS):
                    parts.append(Shard(len(parts), cut, min(cut + PART_ROWS, start + rows), read_group=len(row_groups)))
                row_groups.append(RowGroups(file, range(first, number + 1), start))
                first, rows = number + 1, 0
    if columns is None:
        raise DataError(f"{path} holds no .parquet files.")
    identity = fingerprint((str(file.relative_to(path)), file.stat()) for file in files)
    return Parquet(path, identity, shape, fit, columns, parts, row_groups)


def _columns(file: Path, schema: pa.Schema) -> Columns:
    """Where the image bytes and the ids are: the column `image`, or the only one that holds bytes."""
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
    return DataError(f"{file} cannot be read as Parquet: {reason}. Mend it or remove it.")
