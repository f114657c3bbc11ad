"""Pictures of a folder: decoded once by DataLoader workers, then mapped from a file of uint8."""

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
DECODING_VERSION = 2
"""Version of the rules by which pictures become pixels; a new one invalidates all cached pixels."""
WORKER_BATCH = 64
"""Pictures that a worker decodes per batch; more would delay the progress bar, fewer cost transfers."""


class PictureDataset(MapDataset[Tensor]):
    """Picture files as uint8 (C, H, W): centre crops, resized to `shape` by `pictures.pixels`."""

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int, int]) -> None:
        self.paths = paths
        self.shape = shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Decode one picture; raises DataError, which names its path."""
        path = self.paths[index]
        with _named(path):
            return read_picture(path.read_bytes(), self.shape, FOLDER_FIT, str(path))


def load_folder(root: Path, cache_dir: Path, image_size: int | None) -> tuple[Dataset, Dataset]:
    """Load the pictures under `root`; the label of a picture is the subfolder of `root` that contains it.

    Prints on stderr which files were skipped.

    Args:
        root: A folder of pictures.
        cache_dir: Folder for the decoded pixels.
        image_size: Height and width; None requires pictures of equal size.

    Returns:
        Training and test set, with C = 1 if all pictures are grey, else 3. The test set is about a tenth, chosen by
        a hash of the bytes of each file, so that it does not depend on `image_size`.

    Raises:
        DataError: A picture cannot be read, `root` holds fewer than two, or sizes differ without `image_size`.

    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{root} {what}; --dataset folder:PATH expects a folder of pictures.")
    paths, skipped = find_files(root, SUFFIXES)
    if skipped:
        print(describe_skipped(root, skipped, SUFFIXES), file=sys.stderr)
    if len(paths) < 2:
        kinds = ", ".join(SUFFIXES)
        raise DataError(f"{root} holds {len(paths)} pictures ({kinds}), including subfolders; at least 2 are expected.")
    pictures = Folder(root, paths, _common_shape(paths, image_size))
    # torchvision's find_classes would add folders without pictures, and fail if there are no subfolders
    names = [path.relative_to(root).parts[0] if path.parent != root else None for path in paths]
    classes = sorted({name for name in names if name is not None})
    labels = torch.tensor([NO_LABEL if name is None else classes.index(name) for name in names])
    train, test = load_stored(pictures, printable(root.absolute().name), labels, cache_dir)
    class_names = tuple(map(printable, classes))
    return replace(train, classes=class_names), replace(test, classes=class_names)


class Folder:
    """Source of the pictures `paths` under `path`, decoded to `image_shape` (C, H, W)."""

    hashed = "files"

    def __init__(self, path: Path, paths: Sequence[Path], image_shape: tuple[int, int, int]) -> None:
        self.path = path
        self.shape = len(paths), *image_shape
        self._paths = paths

    def state(self) -> str:
        """Hash the path, size and modification time of each picture, and the shape."""
        digest = hashlib.sha256(f"by content, {DECODING_VERSION}, {self.shape}".encode())
        for path in self._paths:
            state = path.stat()
            digest.update(os.fsencode(path.absolute()) + f"\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]

    def positions(self) -> Tensor:
        """Hash the bytes of each file."""
        with tqdm(self._paths, desc="hashing", unit=" pictures", leave=False) as paths:
            return torch.tensor([_position(path) for path in paths], dtype=torch.float64)

    def batches(self, order: Tensor) -> Iterator[Tensor]:
        """Decode the pictures in `order`."""
        pictures = PictureDataset([self._paths[index] for index in order.tolist()], self.shape[1:])
        workers = min(os.cpu_count() or 1, len(pictures) // WORKER_BATCH)
        try:
            yield from DataLoader(pictures, WORKER_BATCH, num_workers=workers)
        except DataError as error:  # DataLoader prepends the stack of its worker
            raise DataError(str(error).rpartition("DataError: ")[2]) from error


def _position(path: Path) -> float:
    with _named(path):
        return position(path.read_bytes())


def _common_shape(paths: Sequence[Path], image_size: int | None) -> tuple[int, int, int]:
    """Read the shape (C, H, W) of all pictures from their headers; raises DataError if sizes differ."""
    first: tuple[int, int] | None = None
    channels = 1
    for path in tqdm(paths, desc="scanning", unit=" pictures", leave=False):
        with _named(path):
            image = open_file(path.read_bytes(), str(path))
        upright_height, upright_width = upright_size(image)
        size = (upright_width, upright_height)
        if Image.getmodebase(image.mode) != "L":
            channels = 3
        first = first or size
        if image_size is None and size != first:
            given = (f"{p} is {width}×{height}" for p, (width, height) in ((paths[0], first), (path, size)))
            raise DataError(f"{' and '.join(given)}: give --image-size to resize all.")
    width, height = first or (0, 0)
    return channels, image_size or height, image_size or width


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raise the errors of reading a picture as DataError with its path."""
    try:
        yield
    except PictureError as error:
        raise DataError(f"{error} Repair or remove it.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Repair or remove it.") from error
