"""torchvision's data sets of small pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets

from training.data.dataset import DataError, Dataset

VISION: dict[str, tuple[type[Any], dict[str, str]]] = {
    "mnist": (datasets.MNIST, {}),
    "fashion-mnist": (datasets.FashionMNIST, {}),
    "kmnist": (datasets.KMNIST, {}),
    "emnist": (datasets.EMNIST, {"split": "balanced"}),
    "cifar10": (datasets.CIFAR10, {}),
}


def load_vision(name: str, data_dir: Path, *, train: bool) -> Dataset:
    """The training or the test set of `name`, read from `data_dir` or downloaded into it; raises DataError."""
    kind, options = VISION[name]
    folder = data_dir / ("cifar-10-batches-py" if name == "cifar10" else kind.__name__)
    try:
        found = kind(data_dir, train=train, **options)
    except RuntimeError as error:
        if "not found" not in str(error):
            raise _damaged(folder) from error
        found = _download(name, data_dir, folder, train=train)
    except Exception as error:  # what torchvision's parsers raise on a damaged file depends on where the damage is
        raise _damaged(folder) from error
    images, labels = torch.as_tensor(found.data), torch.as_tensor(found.targets, dtype=torch.int64)
    if images.ndim not in (3, 4) or images.dtype != torch.uint8 or len(images) != len(labels) or len(images) == 0:
        raise DataError(f"The images and labels in {folder} do not belong together: remove the folder.")
    if name == "emnist":  # its files hold the pictures with rows and columns exchanged
        images = images.transpose(1, 2)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return Dataset(name, images.contiguous(), labels)


def _download(name: str, data_dir: Path, folder: Path, *, train: bool) -> Any:
    kind, options = VISION[name]
    print(f"{name} is not in {data_dir}: downloading it.", file=sys.stderr)
    try:
        return kind(data_dir, train=train, download=True, **options)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} could not be downloaded into {data_dir} ({str(error).strip().splitlines()[-1]}). Connect to the "
            f"network, put its files into {folder}, or point --data-dir at a folder that holds {folder.name}."
        ) from error


def _damaged(folder: Path) -> DataError:
    return DataError(f"A file in {folder} is damaged: remove the folder, and it is downloaded anew.")
