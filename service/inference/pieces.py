"""Videos that are decoded piece by piece, for responses that begin before the last frame is computed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np

from service.inference.backend import ByteArray, FloatArray, VideoBackend
from service.inference.batching import MicroBatcher
from service.inference.finite import NonFiniteOutput
from service.inference.turns import Turns
from service.telemetry.timing import Timing

Take = Callable[[FloatArray], None]


class _Abandoned(Exception):
    """Nobody waits for the video any more."""


class PieceDecoder:
    """Decodes one video after the other in the threads of the engine; small batches go between two pieces."""

    def __init__(
        self,
        backend: VideoBackend,
        turns: Turns,
        observe: Callable[[Sequence[Exception | None], Sequence[Timing], float, int], None],
    ) -> None:
        self._backend = backend
        self._turns = turns
        self.batcher: MicroBatcher[tuple[FloatArray, Take], None] = MicroBatcher(
            self._compute, limit=1, size=lambda _: 1, executor=turns.long, observe=observe
        )

    async def decode(self, z: FloatArray, timing: Timing | None) -> AsyncGenerator[ByteArray]:
        """Return the frames of the video of latent z (1, C', t, h, w) as they are decoded, uint8 (T, H, W, C) each.

        They wait in the memory until they are taken. If the generator is closed, the computation ends at its next
        frames. Raises NonFiniteOutput.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[ByteArray | None] = asyncio.Queue()

        def take(pixels: FloatArray) -> None:
            if computation.cancelled():
                raise _Abandoned
            loop.call_soon_threadsafe(pieces.put_nowait, to_frames(pixels)[0])
            self._turns.yield_turn()

        computation = self.batcher.submit((z, take), timing)
        computation.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (frames := await pieces.get()) is not None:
                yield frames
            computation.result()
        finally:
            computation.cancel()

    def _compute(self, items: Sequence[tuple[FloatArray, Take]]) -> list[Exception | None]:
        ((z, take),) = items
        self._backend.decode_pieces(z.copy(), take)  # z may be read-only, which torch does not take
        return [None]


def to_frames(pixels: FloatArray) -> ByteArray:
    """Convert videos (N, C, T, H, W) in [0, 1], in place, to uint8 (N, T, H, W, C); raises NonFiniteOutput."""
    if not np.isfinite(pixels.sum()):
        raise NonFiniteOutput
    pixels *= 255
    pixels += 0.5
    return pixels.transpose(0, 2, 3, 4, 1).astype(np.uint8)
