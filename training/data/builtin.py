"""torchvision's data sets of small pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets

from training.data.dataset import DataError, Dataset

BUILTIN: dict[str, tuple[type[Any], dict[str, str]]] = {
    "mnist": (datasets.MNIST, {}),
    "fashion-mnist": (datasets.FashionMNIST, {}),
    "kmnist": (datasets.KMNIST, {}),
    "emnist": (datasets.EMNIST, {"split": "balanced"}),
    "cifar10": (datasets.CIFAR10, {}),
}
"""torchvision's class and its further arguments, by the name that `--dataset` takes."""


def load_builtin(name: str, data_dir: Path, *, train: bool) -> Dataset:
    """Load a data set of torchvision.

    Args:
        name: A key of BUILTIN.
        data_dir: Folder of the data set; missing files are downloaded into it.
        train: True for the training set, False for the test set.

    Raises:
        DataError: A file is damaged, or could not be downloaded.

    """
    kind, options = BUILTIN[name]
    folder = data_dir / ("cifar-10-batches-py" if name == "cifar10" else kind.__name__)
    try:
        found = kind(data_dir, train=train, **options)
    except RuntimeError as error:
        if "not found" not in str(error):
            raise _damaged(folder) from error
        found = _download(name, data_dir, folder, train=train)
    except Exception as error:  # torchvision's parsers raise many types of exceptions on damaged files
        raise _damaged(folder) from error
    images, labels = torch.as_tensor(found.data), torch.as_tensor(found.targets, dtype=torch.int64)
    if images.ndim not in (3, 4) or images.dtype != torch.uint8 or len(images) != len(labels) or len(images) == 0:
        raise DataError(
            f"The images in {folder} do not match their labels: remove the folder, and it is downloaded again."
        )
    if name == "emnist":  # its files hold transposed pictures
        images = images.transpose(1, 2)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return Dataset(name, images.contiguous(), labels)


def _download(name: str, data_dir: Path, folder: Path, *, train: bool) -> Any:
    kind, options = BUILTIN[name]
    print(f"{name} is not in {data_dir}: downloading it.", file=sys.stderr)
    try:
        return kind(data_dir, train=train, download=True, **options)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} could not be downloaded into {data_dir} ({str(error).strip().splitlines()[-1]}). Connect to the "
            f"network, put its files into {folder}, or point --data-dir at a folder that holds {folder.name}."
        ) from error


def _damaged(folder: Path) -> DataError:
    return DataError(f"A file in {folder} is damaged: remove the folder, and it is downloaded again.")
