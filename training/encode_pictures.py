"""Pictures to encode: decoded as training decodes them, from the files of a folder or from bytes."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from training.data import DataError
from training.encode_rows import Part, Rows, Shape, batches, equal_parts, fingerprint
from training.folder import Pictures


@dataclass(frozen=True)
class Folder:
    """Pictures in a folder and its sub-folders; a picture's id is its path from there."""

    path: Path
    fingerprint: str
    shape: Shape
    names: pa.LargeBinaryArray
    """Those paths, as the file system has them: they need not be text."""
    parts: Sequence[Part]
    id_type = pa.string()
    is_decoded = False

    def read(self, parts: Sequence[Part], batch_size: int) -> Iterator[tuple[Part, Rows]]:
        """Decode file after file."""
        for part, rows in batches(parts, batch_size):
            names = self.names[rows.start : rows.stop].to_pylist()
            ids = pa.array([name.decode(errors="backslashreplace") for name in names], pa.string())
            yield part, decode(ids, [self.path / os.fsdecode(name) for name in names], self.shape)


def open_folder(root: Path, names: pa.LargeBinaryArray, shape: Shape) -> Folder:
    """The pictures `names` in `root`."""
    paths = (os.fsdecode(name.as_py()) for name in names)
    identity = fingerprint((path, _state(root / path)) for path in paths)
    return Folder(root, identity, shape, names, equal_parts(len(names)))


def _state(path: Path) -> os.stat_result:
    """Of a link that leads nowhere its own."""
    return path.stat() if path.exists() else path.lstat()


def decode(ids: pa.Array, files: Sequence[Path | io.BytesIO], shape: Shape) -> Rows:
    """The middle of each picture scaled to `shape`, in its number of channels."""
    decoded = [_decode_one(file, shape) for file in files]
    images = [image for image in decoded if isinstance(image, Tensor)]
    return Rows(
        ids,
        pa.array([isinstance(image, Tensor) for image in decoded], pa.bool_()),
        torch.stack(images) if images else torch.empty(0, *shape, dtype=torch.uint8),
        [sentence for sentence in decoded if isinstance(sentence, str)],
    )


def _decode_one(file: Path | io.BytesIO, shape: Shape) -> Tensor | str:
    try:
        return Pictures([cast("Path", file)], shape)[0]  # Pillow opens the one as well as the other
    except Exception as error:  # what decoders raise on a damaged picture depends on where the damage is
        cause = error.__cause__ or error
    if isinstance(cause, UnidentifiedImageError):  # its own words hold the address of a BytesIO
        return "It cannot be read as an image: it begins like no known kind of picture."
    if isinstance(cause, OSError) and cause.errno not in (None, errno.ENOENT, errno.EACCES, errno.ELOOP):
        raise DataError(f"{file} cannot be read: {cause.strerror}. Mend the disk; the same command goes on.") from cause
    return f"It cannot be read as an image: {cause}."
