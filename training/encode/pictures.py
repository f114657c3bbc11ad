"""Pictures of a folder, decoded as in training."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from pictures.errors import PictureError
from training.data.dataset import DataError
from training.data.pictures import read_picture
from training.encode.rows import Rows, Shape, Shard, batches, equal_shards, fingerprint
from vae.metadata import Fit


@dataclass(frozen=True)
class Folder:
    """Pictures in a folder and its subfolders. The id of a picture is its path relative to the folder."""

    path: Path
    fingerprint: str
    shape: Shape
    fit: Fit
    names: pa.LargeBinaryArray
    """Relative paths as bytes, because file names need not be valid text."""
    shards: Sequence[Shard]
    id_type = pa.string()
    is_decoded = False

    def read(self, shards: Sequence[Shard], batch_size: int) -> Iterator[tuple[Shard, Rows]]:
        """Decode the files of `shards`."""
        for shard, rows in batches(shards, batch_size):
            names = self.names[rows.start : rows.stop].to_pylist()
            ids = pa.array([name.decode(errors="backslashreplace") for name in names], pa.string())
            yield shard, decode(ids, [self.path / os.fsdecode(name) for name in names], self.shape, self.fit)


def open_folder(root: Path, names: pa.LargeBinaryArray, shape: Shape, fit: Fit) -> Folder:
    """Open the pictures `names` in `root`."""
    paths = (os.fsdecode(name.as_py()) for name in names)
    identity = fingerprint((path, _state(root / path)) for path in paths)
    return Folder(root, identity, shape, fit, names, equal_shards(len(names)))


def _state(path: Path) -> os.stat_result:
    """Return the state of a file, or of the link itself if it is dangling."""
    return path.stat() if path.exists() else path.lstat()


def decode(ids: pa.Array, files: Sequence[Path | bytes], shape: Shape, fit: Fit) -> Rows:
    """Decode pictures, given as paths or as bytes, and resize them to `shape` as `fit` says."""
    decoded = [_decode_one(file, shape, fit) for file in files]
    images = [image for image in decoded if isinstance(image, Tensor)]
    return Rows(
        ids,
        pa.array([isinstance(image, Tensor) for image in decoded], pa.bool_()),
        torch.stack(images) if images else torch.empty(0, *shape, dtype=torch.uint8),
        [error for error in decoded if isinstance(error, str)],
    )


def _decode_one(file: Path | bytes, shape: Shape, fit: Fit) -> Tensor | str:
    """Return the image, or an error message."""
    try:
        return read_picture(file if isinstance(file, bytes) else file.read_bytes(), shape, fit, "It")
    except PictureError as error:
        return str(error)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.ELOOP):
            return f"It cannot be read: {error.strerror}."
        what = f"{file!s} cannot be read: {error.strerror}"
        raise DataError(f"{what}. Repair the disk; the same command continues.") from error
