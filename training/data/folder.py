"""Pictures in a folder: decoded once by DataLoader workers, then mapped from a file of uint8."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset
from tqdm import tqdm

from pictures.errors import PictureError
from pictures.orientation import upright_size
from training.data.dataset import NO_LABEL, DataError, Dataset
from training.data.pictures import open_file, read_picture
from training.data.split import position
from training.data.stored import load_stored
from training.data.tree import FOLDER_FIT, describe_skipped, find_files, printable

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

    Without `image_size` (height and width) all must be of one size. Grey pictures alone give C = 1, else 3. About a
    tenth, chosen by a hash of each file's bytes, is the test set: so it stays the same whatever size the pictures are
    scaled to. What was decoded is kept in `cache_dir`. Which files were skipped is told on stderr. Raises DataError.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{root} {what}; --dataset folder:PATH wants a folder of pictures.")
    paths, skipped = find_files(root, SUFFIXES)
    if skipped:
        print(describe_skipped(root, skipped, SUFFIXES), file=sys.stderr)
    if len(paths) < 2:
        kinds = ", ".join(SUFFIXES)
        raise DataError(f"{root} holds {len(paths)} pictures ({kinds}), in sub-folders or not; at least 2 are wanted.")
    pictures = Folder(root, paths, _common_shape(paths, image_size))
    # torchvision's ImageFolder would leave out pictures in `root` itself, and does not end where links form a loop
    names = [path.relative_to(root).parts[0] if path.parent != root else None for path in paths]
    classes = sorted({name for name in names if name is not None})
    labels = torch.tensor([NO_LABEL if name is None else classes.index(name) for name in names])
    train, test = load_stored(pictures, printable(root.absolute().name), labels, cache_dir)
    told = tuple(map(printable, classes))
    return replace(train, classes=told), replace(test, classes=told)


class Folder:
    """Pictures at `paths` under `path`, decoded to `image_shape`, C×H×W."""

    hashed = "files"

    def __init__(self, path: Path, paths: Sequence[Path], image_shape: tuple[int, int, int]) -> None:
        self.path = path
        self.shape = len(paths), *image_shape
        self._paths = paths

    def state(self) -> str:
        """Of each picture's path, size and time, and of the shape."""
        digest = hashlib.sha256(f"by content, {READING}, {self.shape}".encode())
        for path in self._paths:
            state = path.stat()
            digest.update(os.fsencode(path.absolute()) + f"\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]

    def positions(self) -> Tensor:
        """By the bytes of each file."""
        with tqdm(self._paths, desc="hashing", unit=" pictures", leave=False) as paths:
            return torch.tensor([_position(path) for path in paths], dtype=torch.float64)

    def batches(self, order: Tensor) -> Iterator[Tensor]:
        """As `training.data.stored.Source` has it."""
        pictures = Pictures([self._paths[index] for index in order.tolist()], self.shape[1:])
        workers = min(os.cpu_count() or 1, len(pictures) // CHUNK)
        try:
            yield from DataLoader(pictures, CHUNK, num_workers=workers)
        except DataError as error:  # a worker's, told with the worker's stack before it
            raise DataError(str(error).rpartition("DataError: ")[2]) from error


def _position(path: Path) -> float:
    with _named(path):
        return position(path.read_bytes())


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
