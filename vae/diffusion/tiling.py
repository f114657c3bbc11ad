"""Which tiles an image is computed in. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

SIDE = 1024
"""Pixels of a tile's longest side. Up to here the attention of the usual networks takes little of the time."""
OVERLAP = 128
"""Pixels that tiles overlap by. It is about the receptive field of the convolutions of Stable Diffusion's decoder."""

Span = tuple[int, int]
"""Start and stop of a tile along one axis, in latent positions."""


@dataclass(frozen=True)
class Tiling:
    """Tiles of near-equal size that overlap and cover an image."""

    stride: int
    """Pixels per latent position, along height and width."""
    whole: int = SIDE**2
    """Pixels of the largest image that is computed whole, in one tile."""
    side: int = SIDE
    """Pixels of the longest side of a tile."""

    def smaller(self) -> Tiling:
        """Return a tiling that computes images of any size in tiles, half as high and wide."""
        return replace(self, whole=0, side=self.side // 2)

    def tiles(self, height: int, width: int) -> list[tuple[Span, Span]]:
        """Return the rows and columns of each tile of a latent of `height`×`width` positions, in reading order."""
        if height * width * self.stride**2 <= self.whole:
            return [((0, height), (0, width))]
        return [(rows, columns) for rows in self._spans(height) for columns in self._spans(width)]

    def _spans(self, length: int) -> list[Span]:
        side = max(1, self.side // self.stride)
        if length <= side:
            return [(0, length)]
        overlap = min(max(1, OVERLAP // self.stride), side // 4)
        count = ceil((length - overlap) / (side - overlap))
        size = ceil((length + (count - 1) * overlap) / count)
        starts = [index * (length - size) // (count - 1) for index in range(count)]
        return [(start, start + size) for start in starts]
