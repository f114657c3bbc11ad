"""Where the rows of a request are computed: small images in batches of one shape, large ones one by one."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from service.inference.backend import Arrays
from service.inference.batching import MicroBatcher
from service.inference.compute_memory import ComputeMemory
from service.telemetry.timing import Timing
from vae.config import VAEConfig
from vae.diffusion.config import DiffusionConfig

Batcher = MicroBatcher[Arrays, Arrays]


class Lane(NamedTuple):
    """The batcher of an operation for some rows, and the largest batch of these."""

    batcher: Batcher
    limit: int


class _Operation(NamedTuple):
    long: Batcher
    takes_latents: bool
    passes: int


class Lanes:
    """Chooses the lane of each request by the size of its images; without `memory` there is one lane."""

    def __init__(self, config: VAEConfig | DiffusionConfig, memory: ComputeMemory | None, limit: int) -> None:
        """`limit`: the largest batch of any images, in rows."""
        self._config = config
        self._memory = memory
        self._limit = limit
        self._operations: dict[Batcher, _Operation] = {}

    def add(self, short: Batcher, long: Batcher, *, takes_latents: bool, passes: int) -> None:
        """Let `long` compute the large images of `short`, by so many passes through the encoder or the decoder."""
        self._operations[short] = _Operation(long, takes_latents, passes)

    def choose(self, short: Batcher, rows: Arrays, timing: Timing | None, count: int | None = None) -> Lane:
        """Return the lane of `rows`, or of `count` rows of their shape, whose pieces are added to `timing`.

        Raises TooLarge for images that the memory does not suffice for.
        """
        limit, pieces, batcher = self._limit, 1, short
        if self._memory:
            operation, shape = self._operations[short], self.image_shape(short, rows)
            self._memory.check(shape)
            limit = self.batch_limit(shape)
            if self._memory.is_long(shape):
                batcher, limit, pieces = operation.long, 1, self.pieces(short, rows)
        if timing:
            timing.total_pieces += ceil((count or len(rows[0])) / limit) * pieces
        return Lane(batcher, limit)

    def batch_limit(self, image_shape: tuple[int, ...]) -> int:
        """How many images of this shape are one batch at most."""
        return min(self._limit, self._memory.rows(image_shape)) if self._memory else self._limit

    def image_shape(self, short: Batcher, rows: Arrays) -> tuple[int, ...]:
        """The shape of each image that is encoded from, or decoded to, `rows`."""
        shape = rows[0].shape[1:]
        if not self._operations[short].takes_latents:
            return shape
        return self._config.image_shape_of(shape) or self._config.image_shape

    def pieces(self, short: Batcher, rows: Arrays) -> int:
        """In how many pieces each of `rows` is computed: one more than there are breaks between tiles."""
        tiles = self._memory.tiles(self.image_shape(short, rows)) if self._memory else 1
        return self._operations[short].passes * (tiles - 1) + 1
