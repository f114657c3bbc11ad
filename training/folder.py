"""Pictures in a folder: decoded once by DataLoader workers, then mapped from a file of uint8.

Decoding a picture takes longer than learning from it. It is done once, in parallel, into a file that is read like
memory: what fits stays in the page cache, what does not is read from disk batch by batch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset
from tqdm import tqdm

from pictures.errors import PictureError
from pictures.orientation import upright_size
from training.config import FOLDER_FIT
from training.data import NO_LABEL, DataError, Dataset, shuffled
from training.npy import TEST_SHARE
from training.pictures import open_file, read_picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
READING = 2
"""Version of the rules by which pictures become pixels; a new one makes what was decoded before be decoded anew."""
CHUNK = 64
"""Pictures that a worker decodes before it hands them over."""


class Pictures(MapDataset[Tensor]):
    """Files → uint8 (C, H, W), the middle of each picture scaled to `shape`, as `pictures.pixels` does."""

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int, int]) -> None:
        self.paths = paths
        self.shape = shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Decode one picture; raises DataError with its path."""
        path = self.paths[index]
        with _named(path):
            return read_picture(path.read_bytes(), self.shape, FOLDER_FIT, str(path))


def load_folder(root: Path, cache_dir: Path, image_size: int | None) -> tuple[Dataset, Dataset]:
    """Training and test set of the pictures under `root`; a picture's label is the sub-folder that it lies in.

    Without `image_size` (height and width) all must be of one size. Grey pictures alone give C = 1, else 3. A tenth,
    chosen once and for all, is the test set. What was decoded is kept in `cache_dir`. Raises DataError.
    """
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(paths) < 2:
        kinds = ", ".join(SUFFIXES)
        raise DataError(f"{root} holds {len(paths)} pictures ({kinds}), in sub-folders or not; at least 2 are wanted.")
    shape = _common_shape(paths, image_size)
    paths = [paths[index] for index in shuffled(len(paths)).tolist()]
    images = _decoded(Pictures(paths, shape), cache_dir / "decoded" / f"{root.name}-{_fingerprint(paths, shape)}.uint8")
    names = [path.relative_to(root).parts[0] if path.parent != root else None for path in paths]
    classes = sorted({name for name in names if name is not None})
    labels = torch.tensor([NO_LABEL if name is None else classes.index(name) for name in names])
    return Dataset(root.name, images, labels, tuple(classes)).split(TEST_SHARE)


def _common_shape(paths: Sequence[Path], image_size: int | None) -> tuple[int, int, int]:
    """C×H×W of all `paths`, read off their headers."""
    first: tuple[int, int] | None = None
    channels = 1
    for path in tqdm(paths, desc="looking through", unit=" pictures", leave=False):
        with _named(path):
            image = open_file(path.read_bytes(), str(path))
        upright_height, upright_width = upright_size(image)
        size = (upright_width, upright_height)
        if Image.getmodebase(image.mode) != "L":
            channels = 3
        first = first or size
        if image_size is None and size != first:
            given = (f"{p} is {width}×{height}" for p, (width, height) in ((paths[0], first), (path, size)))
            raise DataError(f"{' and '.join(given)}: give --image-size, to which all are scaled.")
    width, height = first or (0, 0)
    return channels, image_size or height, image_size or width


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raise DataError, with the path, in place of what reading a picture raises."""
    try:
        yield
    except PictureError as error:
        raise DataError(f"{error} Mend it or remove it.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Mend it or remove it.") from error


def _fingerprint(paths: Sequence[Path], shape: tuple[int, int, int]) -> str:
    """Of what is decoded to what: another file, a changed one, another size or other rules give another."""
    digest = hashlib.sha256(repr((READING, shape)).encode())
    for path in paths:
        state = path.stat()
        digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _decoded(pictures: Pictures, path: Path) -> Tensor:
    """All `pictures` as a mapped tensor, uint8 (N, C, H, W), decoded into `path` unless that was done before."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        workers = min(os.cpu_count() or 1, len(pictures) // CHUNK)
        loader = DataLoader(pictures, CHUNK, num_workers=workers)
        try:
            with partial.open("wb") as file, tqdm(total=len(pictures), desc="decoding", unit=" pictures") as bar:
                for batch in loader:
                    file.write(batch.numpy().tobytes())
                    bar.update(len(batch))
            partial.replace(path)
        except DataError as error:  # a worker's, told with the worker's stack before it
            raise DataError(str(error).rpartition("DataError: ")[2]) from error
        except OSError as error:
            raise DataError(
                f"{path} cannot be written: {error.strerror}. Free the disk, or change --data-dir."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    shape = (len(pictures), *pictures.shape)
    return torch.from_file(str(path), shared=False, size=int(np.prod(shape)), dtype=torch.uint8).view(shape)
