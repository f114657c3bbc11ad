"""Data sets by their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from training.data.dataset import Dataset
from training.data.split import Origin, fingerprint, positions


def load(name: str, data_dir: Path, image_size: int | None = None) -> tuple[Dataset, Dataset]:
    """Training and test set of `name`: one of torchvision's, `folder:PATH` or `npy:PATH`; raises DataError.

    torchvision's lie in `data_dir`, or are downloaded into it; what the others are decoded to is kept there.
    `image_size` is for folders.
    """
    source, _, path = name.partition(":")
    if source == "folder":
        from training.data.folder import load_folder  # noqa: PLC0415 - only what is asked for is imported

        return load_folder(Path(path), data_dir, image_size)
    if source == "npy":
        from training.data.npy import load_npy  # noqa: PLC0415

        return load_npy(Path(path), data_dir)
    from training.data.builtin import load_vision  # noqa: PLC0415

    parts = [load_vision(name, data_dir, train=train) for train in (True, False)]
    places = [positions(part.images) for part in parts]
    origin = Origin(fingerprint(*places))
    train, test = (replace(part, positions=its, origin=origin) for part, its in zip(parts, places, strict=True))
    return train, test
