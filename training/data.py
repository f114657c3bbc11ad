"""MNIST as two tensors: the whole set stays uint8, and goes to the device once."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import MNIST

from training.config import ConfigError


class DataError(Exception):
    """A data set that cannot be had or read; the message is a sentence that says how to mend it."""


@dataclass(frozen=True)
class Dataset:
    """Images, uint8 (N, C, H, W), and their labels, int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C×H×W."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def describe(self) -> str:
        """Number, shape and pixel range, for a person."""
        low, high = (extreme.item() for extreme in self.images.aminmax())
        shape = "×".join(map(str, self.image_shape))
        return f"{len(self):,} images of {shape}, pixels {low} to {high}, read as {low / 255:g} to {high / 255:g}"

    def hold_out(self, count: int) -> tuple[Dataset, Dataset]:
        """All but the last `count` images, and those; the same ones whatever the seed, so that runs can be compared."""
        if count >= len(self):
            raise ConfigError(f"--validation is {count}; it must be less than the {len(self)} training images.")
        kept = len(self) - count
        return Dataset(self.images[:kept], self.labels[:kept]), Dataset(self.images[kept:], self.labels[kept:])

    def to(self, device: torch.device) -> Dataset:
        """The same on `device`."""
        return Dataset(self.images.to(device), self.labels.to(device))


def to_pixels(images: Tensor) -> Tensor:
    """Uint8 images → float32 in [0, 1], as the model takes them."""
    return images.float() / 255


def load_mnist(data_dir: Path, *, train: bool) -> Dataset:
    """The training or the test set, read from `data_dir`/MNIST or downloaded into it; raises DataError."""
    raw = data_dir / "MNIST" / "raw"
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    if not all((raw / name).is_file() for name in names):
        print(f"MNIST is not in {data_dir}: downloading it.", file=sys.stderr)
        try:
            MNIST(data_dir, download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"MNIST could not be downloaded into {data_dir} ({str(error).strip().splitlines()[-1]}). Connect to "
                f"the network, put the four files ({', '.join(names)}) into {raw}, or point --data-dir at one that "
                "holds MNIST/raw."
            ) from error
    try:
        mnist = MNIST(data_dir, train=train)
    except Exception as error:  # what torchvision's parser raises on a damaged file depends on where the damage is
        raise DataError(
            f"A file of MNIST in {raw} is damaged: remove the folder, and it is downloaded anew."
        ) from error
    images, labels = mnist.data, mnist.targets
    if images.ndim != 3 or images.dtype != torch.uint8 or len(images) != len(labels) or len(images) == 0:
        raise DataError(f"The images and labels in {raw} do not belong together: remove the folder.")
    return Dataset(images.unsqueeze(1), labels)
