"""The memory that computing an image takes, and what follows from it: whole, in tiles, or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from math import isqrt, prod
from pathlib import Path
from typing import Protocol, Self

from service.errors import TooLarge
from vae.diffusion.tiling import SIDE, Tiling

SMALLEST_SIDE = 256
"""Pixels of a side of the smallest tile: half of a smaller one would be overlap."""
OUTPUT_BYTES = 16
"""Bytes per value of a result that is blended from tiles: itself, and copies in its and another dtype."""
FREE_SHARE = 2
"""Inverse of the share of the free memory that is used without a setting: requests and other processes need some."""


class TooLittleMemory(Exception):
    """Not even the smallest tile fits; the message says what it takes."""


@dataclass(frozen=True)
class PeakMemory:
    """The largest number of bytes allocated during a pass, without weights: linear in the pixels."""

    fixed: float
    per_pixel: float

    @classmethod
    def fit(cls, smaller: tuple[int, float], larger: tuple[int, float], least: float) -> Self:
        """From (pixels, bytes) of two passes; `least` is a lower bound of `per_pixel`."""
        (few, few_bytes), (many, many_bytes) = smaller, larger
        per_pixel = max(least, (many_bytes - few_bytes) / (many - few))
        return cls(max(0.0, many_bytes - per_pixel * many), per_pixel)

    def size(self, pixels: int) -> float:
        """The bytes of a pass of so many pixels."""
        return self.fixed + self.per_pixel * pixels

    def pixels(self, limit: float) -> int:
        """The largest number of pixels that a pass can have within `limit` bytes."""
        return max(0, int((limit - self.fixed) / self.per_pixel))


class Breaks(Protocol):
    """Is told when a computation can be interrupted; each method may raise to end it."""

    def between(self) -> None:
        """A tile is computed, and another one follows."""

    def before_piece(self) -> None:
        """A tile, or a piece of it, is about to be computed."""


@dataclass
class ComputeMemory:
    """What is computed whole, what in tiles, and what not at all."""

    encode: PeakMemory
    decode: PeakMemory
    limit: float
    """Bytes that a pass may take."""
    tiling: Tiling
    batches: bool
    """Whether each row of a batch has the results that it has alone, bit for bit."""
    breaks: Breaks | None = None
    """What is told of the pieces of a computation; set by the engine."""

    @classmethod
    def plan(
        cls, encode: PeakMemory, decode: PeakMemory, stride: int, *, setting: int | None, free: float, batches: bool
    ) -> Self:
        """Choose what is computed whole, within `setting` bytes.

        Without a setting that is SIDE×SIDE pixels or, where there are less than those take, what fits into a share of
        the bytes that are `free`: whether an image is computed in tiles then does not depend on the machine, unless it
        is small.

        Raises:
            TooLittleMemory: Not even the smallest tile fits.

        """
        limit = free / FREE_SHARE if setting is None else float(setting)
        whole = min(encode.pixels(limit), decode.pixels(limit))
        if whole < SMALLEST_SIDE**2:
            least = max(peak.size(SMALLEST_SIDE**2) for peak in (encode, decode))
            raise TooLittleMemory(
                f"An image of {SMALLEST_SIDE}×{SMALLEST_SIDE} pixels takes {least / 1e6:.0f} MB to compute; "
                f"{limit / 1e6:.0f} MB are allowed."
            )
        whole = min(whole, SIDE**2) if setting is None else whole
        side = min(SIDE, isqrt(whole)) // stride * stride
        return cls(encode, decode, limit, Tiling(stride, whole, side), batches)

    def tiles(self, image_shape: tuple[int, ...]) -> int:
        """In how many tiles an image of this shape is computed."""
        height, width = (side // self.tiling.stride for side in image_shape[-2:])
        return len(self.tiling.tiles(height, width))

    def is_long(self, image_shape: tuple[int, ...]) -> bool:
        """Whether an image of this shape takes longer than the largest tile."""
        return self.tiles(image_shape) > 1 or prod(image_shape[1:]) > SIDE**2

    def estimate(self, peak: PeakMemory, image_shape: tuple[int, ...]) -> float:
        """The bytes that a pass of an image (C, …, H, W) takes, whole or in tiles; `peak` is `encode` or `decode`."""
        _, *frames, height, width = image_shape
        tiles = self.tiling.tiles(height // self.tiling.stride, width // self.tiling.stride)
        if len(tiles) == 1:
            return peak.size(prod(frames) * height * width)
        (top, bottom), (left, right) = tiles[0]
        tile = prod(frames) * (bottom - top) * (right - left) * self.tiling.stride**2
        return peak.size(tile) + OUTPUT_BYTES * prod(image_shape)

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Raise TooLarge for an image that does not fit in tiles either."""
        needed = max(self.estimate(peak, image_shape) for peak in (self.encode, self.decode))
        if needed > self.limit:
            sides = "×".join(map(str, image_shape[1:]))
            takes = f"takes about {needed / 1e6:.0f} MB to compute, in {self.tiles(image_shape)} tiles"
            raise TooLarge(
                f"An image of {sides} pixels {takes}; {self.limit / 1e6:.0f} MB are allowed. Send a smaller one."
            )

    def between_tiles(self) -> None:
        """To be called between two tiles; what it raises ends the computation."""
        if self.breaks:
            self.breaks.between()

    def before_piece(self) -> None:
        """To be called whenever the decoder begins, as for each piece of a video; as `between_tiles`."""
        if self.breaks:
            self.breaks.before_piece()

    def rows(self, image_shape: tuple[int, ...]) -> int:
        """How many images of this shape are one batch at most: as many as have the pixels of a tile."""
        return max(1, self.tiling.side**2 // prod(image_shape[1:])) if self.batches else 1


def free_memory() -> float:
    """Bytes of memory that a process may still allocate: what the system has available, or its cgroup leaves."""
    sizes = []
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # there is no such group, or its limit is "max"
            sizes.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(0.0, min(sizes)) if sizes else float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
