"""Open an input of `vae-train encode`."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from training.data.dataset import DataError
from training.data.folder import SUFFIXES
from training.data.tree import walk
from training.encode.npy import open_npy
from training.encode.parquet import open_parquet
from training.encode.pictures import open_folder
from training.encode.rows import Shape, Source
from vae.metadata import Fit


def open_input(path: Path, shape: Shape, fit: Fit) -> Source:
    """Open the images at `path` for a model of image shape `shape`; `fit` says how to resize. Raises DataError."""
    if path.is_dir():
        pictures, tables = _files(path, SUFFIXES, (".parquet",))
        if len(pictures) and len(tables):
            raise DataError(f"{path} holds pictures as well as .parquet files: encode each in a run of its own.")
        if len(pictures):
            return open_folder(path, pictures, shape, fit)
        if len(tables):
            return open_parquet(path, [path / os.fsdecode(name.as_py()) for name in tables], shape, fit)
        raise DataError(f"{path} holds neither pictures ({', '.join(SUFFIXES)}) nor .parquet files.")
    if path.is_file() and path.suffix == ".npy":
        return open_npy(path, shape)
    if path.is_file() and path.suffix == ".parquet":
        return open_parquet(path, [path], shape, fit)
    what = "is none of these" if path.exists() else "does not exist"
    raise DataError(f"{path} {what}: a folder of pictures or of .parquet files, a .npy or a .parquet file is expected.")


def _files(root: Path, *kinds: tuple[str, ...]) -> list[pa.LargeBinaryArray]:
    """Find files by suffix: paths relative to `root`, one array per kind, in a fixed order.

    Includes dangling links, so that their errors are reported. Arrays take a tenth of the memory of lists.
    """
    chunks: list[list[pa.Array]] = [[] for _ in kinds]
    with tqdm(desc="scanning", unit=" files", leave=False) as bar:
        for folder, names in walk(root):
            for suffixes, found in zip(kinds, chunks, strict=True):
                paths = (folder / name for name in names or () if Path(name).suffix.lower() in suffixes)
                files = [os.fsencode(path.relative_to(root)) for path in paths if path.is_file() or not path.exists()]
                found.append(pa.array(files, pa.large_binary()))
            bar.update(len(names or ()))
    return [pa.concat_arrays(found) for found in chunks]
