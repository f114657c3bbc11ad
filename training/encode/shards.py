"""Encode shards and write each atomically to a file of its own."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.data.dataset import DataError
from training.encode.rows import Rows, Shard, Source, read_groups
from training.encode.scoring import Scoring
from training.fitting.distributed import resolve_device
from vae import VAE
from vae.files import write_atomically

Batch = tuple[Shard, Rows]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3), from malloc.h."""


@dataclass(frozen=True)
class Encoding:
    """An encoding job: source, model and output. Picklable, so that other machines can encode shards of it."""

    source: Source
    model: VAE
    out: Path
    batch_size: int
    device: str
    scoring: Scoring

    def run(self, shards: Sequence[Shard], readers: int) -> Iterator[int]:
        """Encode and write `shards`; yield the number of rows of each batch. Raises DataError.

        `readers` processes read and decode ahead; 0 reads in this process.
        """
        model = self.model.to(resolve_device(self.device))
        _keep_freed_memory()
        reader = _Reader(self.source, read_groups(shards), self.batch_size)
        loader = DataLoader(reader, None, num_workers=min(readers, len(reader.read_groups)))
        latent_dim = model.config.latent_dim
        begun: dict[Shard, _Tables] = defaultdict(lambda: _Tables(self.source.id_type, latent_dim, self.scoring))
        writing: Future[None] | None = None
        try:
            with ThreadPoolExecutor(1) as writer:
                for shard, rows in _read_ahead(loader):
                    tables = begun[shard]
                    tables.add(rows, model)
                    if tables.rows == shard.stop - shard.start:
                        if writing:
                            writing.result()
                        writing = writer.submit(begun.pop(shard).write, self.out, shard)
                    yield len(rows.ids)
                if writing:
                    writing.result()
        except DataError as error:  # from a worker process, with its stack trace before the message
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error


def _read_ahead(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Read the next batch while the current one is encoded."""
    batches = iter(loader)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while batch := coming.result():
            coming = reader.submit(next, batches, None)
            yield batch


class _Reader(IterableDataset[tuple[Shard, Rows]]):
    """Batches of all read groups, distributed over the workers of a DataLoader."""

    def __init__(self, source: Source, read_groups: Sequence[Sequence[Shard]], batch_size: int) -> None:
        self.source = source
        self.read_groups = read_groups
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[tuple[Shard, Rows]]:
        worker = get_worker_info()
        for shards in self.read_groups if worker is None else self.read_groups[worker.id :: worker.num_workers]:
            yield from self.source.read(shards, self.batch_size)


@dataclass
class _Tables:
    """Rows of one shard: those encoded, and the errors of the others."""

    id_type: pa.DataType
    latent_dim: int
    scoring: Scoring
    encoded: list[pa.RecordBatch] = field(default_factory=list)
    errors: list[pa.RecordBatch] = field(default_factory=list)
    rows: int = 0

    def add(self, rows: Rows, model: VAE) -> None:
        """Encode a batch and add it."""
        if len(rows.images):
            columns = [rows.ids.filter(rows.readable), *_encode(model, rows.images, self.scoring)]
            self.encoded.append(pa.RecordBatch.from_arrays(columns, schema=self.schema))
        if rows.errors:
            columns = [rows.ids.filter(pc.invert(rows.readable)), pa.array(rows.errors)]
            self.errors.append(pa.RecordBatch.from_arrays(columns, schema=self.error_schema))
        self.rows += len(rows.ids)

    @property
    def schema(self) -> pa.Schema:
        """Schema of part-*.parquet."""
        latent = pa.list_(pa.float32(), self.latent_dim)
        types = {"mean": latent, "log_variance": latent, **self.scoring.columns}
        return pa.schema([("id", self.id_type), *types.items()])

    @property
    def error_schema(self) -> pa.Schema:
        """Schema of errors-*.parquet."""
        return pa.schema([("id", self.id_type), ("error", pa.string())])

    def write(self, out: Path, shard: Shard) -> None:
        """Write the errors first, because the existence of part-*.parquet marks the shard as complete."""
        errors = out / f"errors-{shard.number:05}.parquet"
        try:
            if self.errors:
                _write(errors, pa.Table.from_batches(self.errors))
            else:
                errors.unlink(missing_ok=True)  # from an interrupted run that could not read a file
            _write(out / f"part-{shard.number:05}.parquet", pa.Table.from_batches(self.encoded, self.schema))
        except OSError as error:
            raise DataError(
                f"Part {shard.number} cannot be written to {out}: {error.strerror}. Free space on the disk; the same "
                "command continues."
            ) from error


@torch.inference_mode()
def _encode(model: VAE, images: Tensor, scoring: Scoring) -> list[pa.Array]:
    """Compute mean and log-variance of q(z|x), (n, D), and the columns of `scoring`, (n,).

    Maps are written as vectors of D = C'·h·w numbers.
    """
    images = images.to(model.mean_layer.weight.device)
    pixels = images.float().div_(255) if images.dtype == torch.uint8 else images  # as to_pixels, in place
    mean, log_variance = model.encode(pixels)
    latents = [pa.array(values.flatten().cpu().numpy()) for values in (mean, log_variance)]
    scores = scoring.compute(model, pixels, mean, log_variance)
    return [
        *(pa.FixedSizeListArray.from_arrays(values, mean[0].numel()) for values in latents),
        *map(pa.array, scores.values()),
    ]


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next batch; returning and remapping it takes a fifth of the time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # bytes; the largest value that glibc allows
        mallopt(M_TRIM_THRESHOLD, 256 * 2**20)


def _write(path: Path, table: pa.Table) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, use_dictionary=False)  # almost all values differ
    write_atomically(path, buffer.getvalue().to_pybytes())
