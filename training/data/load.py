"""Load a data set by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from training.data.dataset import Dataset
from training.data.split import Origin, fingerprint, positions


def load(name: str, data_dir: Path, image_size: int | None = None) -> tuple[Dataset, Dataset]:
    """Load the training and the test set.

    Args:
        name: A data set of torchvision, such as `mnist`, or `folder:PATH` or `npy:PATH`.
        data_dir: Folder for downloads, and for the decoded pixels of folders and arrays.
        image_size: Height and width to which the pictures of a folder are resized; None keeps their size.

    Raises:
        DataError: The data set cannot be read or downloaded.

    """
    source, _, path = name.partition(":")
    if source == "folder":
        from training.data.folder import load_folder  # noqa: PLC0415 - import only what this data set needs

        return load_folder(Path(path), data_dir, image_size)
    if source == "npy":
        from training.data.npy import load_npy  # noqa: PLC0415

        return load_npy(Path(path), data_dir)
    from training.data.builtin import load_builtin  # noqa: PLC0415

    parts = [load_builtin(name, data_dir, train=train) for train in (True, False)]
    hashes = [positions(part.images) for part in parts]
    origin = Origin(fingerprint(*hashes))
    train, test = (replace(part, positions=each, origin=origin) for part, each in zip(parts, hashes, strict=True))
    return train, test
