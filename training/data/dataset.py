"""Images to learn from: one uint8 tensor, in memory, on the device or mapped from a file."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.data.split import UNKNOWN, Origin, positions

NO_LABEL = -1


class DataError(Exception):
    """A data set that cannot be had or read; the message is a sentence that says how to mend it."""


@dataclass(frozen=True)
class Dataset:
    """Images, uint8 (N, C, H, W), and their labels, int64 (N,), NO_LABEL where an image has none."""

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    """The name of each label from 0 on; empty where the labels have none."""
    positions: Tensor | None = None
    """Of the images by their content, (N,) float64 in [0, 1), where they are known; see `training.data.split`."""
    origin: Origin = UNKNOWN

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C×H×W."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices`, int64 (n,) on any device, as uint8 (n, C, H, W) on the device of the images."""
        indices = indices.to(self.images.device)
        rows = self.images.flatten(1).index_select(0, indices)  # a third of the time of images[indices]
        return rows.view(-1, *self.image_shape)

    def describe(self) -> str:
        """Number, shape and pixel range, for a person."""
        low, high = (extreme.item() for extreme in self.images.aminmax())
        shape = "×".join(map(str, self.image_shape))
        return f"{len(self):,} images of {shape}, pixels {low} to {high}, read as {low / 255:g} to {high / 255:g}"

    def hold_out(self, count: int) -> tuple[Dataset, Dataset]:
        """All but the last `count` images, and those."""
        kept = len(self) - count
        return (
            replace(self, images=self.images[:kept], labels=self.labels[:kept]),
            replace(self, images=self.images[kept:], labels=self.labels[kept:]),
        )

    def split(self, share: float) -> tuple[Dataset, Dataset]:
        """All but about a `share` (0 to below 1) of the images, and those: the ones with positions below `share`.

        The positions of the others are spread over [0, 1) again. Images in the order of their positions, as a mapped
        file has them, are not copied.
        """
        places = positions(self.images) if self.positions is None else self.positions
        low = places < share
        count = int(low.sum())
        in_order = bool(low[:count].all())
        kept, held_out = (slice(count, None), slice(count)) if in_order else (~low, low)
        spread = (places[kept] - share) / (1 - share)
        return (
            replace(self, images=self.images[kept], labels=self.labels[kept], positions=spread),
            replace(self, images=self.images[held_out], labels=self.labels[held_out], positions=places[held_out]),
        )

    def to(self, device: torch.device) -> Dataset:
        """The same on `device`, if it fits there beside what training needs; else as it is, read batch by batch."""
        if device.type == "cuda" and self.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            return self
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def to_pixels(images: Tensor) -> Tensor:
    """Uint8 images → float32 in [0, 1], as the model takes them."""
    return images.float() / 255
