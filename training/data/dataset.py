"""A data set: images as one uint8 tensor in memory, on a GPU or mapped from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from training.data.split import TEST_SHARE, UNKNOWN, Origin, positions

NO_LABEL = -1
"""Label of an image without a class."""


class DataError(Exception):
    """A data set cannot be read or downloaded; the message says how to correct it."""


@dataclass(frozen=True)
class Dataset:
    """Images, uint8 (N, C, H, W), and labels, int64 (N,); NO_LABEL marks an image without one."""

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    """Names of the labels 0, 1, …; empty if the labels have no names."""
    positions: Tensor | None = None
    """Hash positions of the images, float64 (N,) in [0, 1); None if not computed yet. See `training.data.split`."""
    origin: Origin = UNKNOWN

    @classmethod
    def from_arrays(
        cls, images: ArrayLike, labels: ArrayLike | None = None, *, name: str = "images", classes: Sequence[str] = ()
    ) -> Dataset:
        """Make a data set of arrays, or of tensors on the CPU, in memory.

        Args:
            images: (N, H, W), (N, C, H, W) or (N, H, W, C), C = 1 or 3, uint8 or floating in [0, 1].
            labels: Integers (N,); None for images without labels.
            name: Name of the data set. A checkpoint records `npy:NAME.npy`, which repeats the training if the images
                are saved there.
            classes: Names of the labels 0, 1, ….

        Raises:
            DataError: The arrays are not such images and labels.

        """
        from training.data.arrays import from_arrays  # noqa: PLC0415 - imports this module

        return from_arrays(images, labels, name, classes)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, int64 (n,) on any device: uint8 (n, C, H, W), on the device of the images."""
        indices = indices.to(self.images.device)
        rows = self.images.flatten(1).index_select(0, indices)  # three times as fast as images[indices]
        return rows.view(-1, *self.image_shape)

    def describe(self) -> str:
        """Describe the number of images, their shape and the range of their pixels."""
        low, high = (extreme.item() for extreme in self.images.aminmax())
        shape = "×".join(map(str, self.image_shape))
        return f"{len(self):,} images of {shape}, pixels {low} to {high}, read as {low / 255:g} to {high / 255:g}"

    def hold_out(self, count: int) -> tuple[Dataset, Dataset]:
        """Split off the last `count` images; returns the other images, then these."""
        kept = len(self) - count
        return (
            replace(self, images=self.images[:kept], labels=self.labels[:kept]),
            replace(self, images=self.images[kept:], labels=self.labels[kept:]),
        )

    def split(self, share: float) -> tuple[Dataset, Dataset]:
        """Split off the images with a position below `share`, about that share of all.

        Images that are sorted by position, as in a mapped file, are not copied.

        Args:
            share: From 0 to below 1.

        Returns:
            The images that are kept, their positions scaled to [0, 1) again, and those that are held out.

        """
        at = positions(self.images) if self.positions is None else self.positions
        low = at < share
        count = int(low.sum())
        is_sorted = bool(low[:count].all())
        kept, held_out = (slice(count, None), slice(count)) if is_sorted else (~low, low)
        scaled = (at[kept] - share) / (1 - share)
        return (
            replace(self, images=self.images[kept], labels=self.labels[kept], positions=scaled),
            replace(self, images=self.images[held_out], labels=self.labels[held_out], positions=at[held_out]),
        )

    def split_test(self) -> tuple[Dataset, Dataset]:
        """Split off the test set, about TEST_SHARE of the images and at least one; returns training set and test set.

        Raises DataError if all images are equal.
        """
        at = positions(self.images) if self.positions is None else self.positions
        low, high = at.min().item(), at.max().item()
        if low == high:
            raise DataError(f"All images of {self.name} are equal: at least 2 different ones are expected.")
        share = TEST_SHARE if low < TEST_SHARE <= high else math.nextafter(low, 1)  # neither part may be empty
        return self.split(share)

    def to(self, device: torch.device) -> Dataset:
        """Copy to `device`; images that would fill more than half of the free GPU memory stay where they are."""
        if device.type == "cuda" and self.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            return self
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def to_pixels(images: Tensor) -> Tensor:
    """Convert uint8 images to float32 in [0, 1], the input of the model."""
    return images.float() / 255
