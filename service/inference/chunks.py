"""Requests of more rows than one batch: computed in chunks, a few at a time, so that other requests come in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import Unavailable
from service.inference.backend import Arrays
from service.inference.batching import MicroBatcher
from service.telemetry.timing import Timing

CHUNKS_IN_FLIGHT = 2
"""Full chunks of one request that are queued at a time: one is computed while the next one is already waiting."""

LARGE_REQUESTS = 2
"""Requests of several chunks that are computed at a time. If all were, all would end late, and the results of their
first chunks would have left the CPU's caches by then."""


class Chunker:
    """Runs requests of any number of rows on micro-batchers."""

    def __init__(self, max_wait: float) -> None:
        """A request of several chunks waits at most `max_wait` seconds for its turn."""
        self._max_wait = max_wait
        self._turns = asyncio.Semaphore(LARGE_REQUESTS)

    def run(
        self, batcher: MicroBatcher[Arrays, Arrays], limit: int, rows: Arrays, timing: Timing | None
    ) -> Awaitable[Arrays]:
        """The results of `rows`, in chunks of `limit`; raises Unavailable where too many large requests wait."""
        if len(rows[0]) <= limit:
            return batcher.submit(rows, timing)

        def cut(start: int) -> Arrays:
            return tuple(array[start : start + limit] for array in rows)

        starts = range(0, len(rows[0]), limit)
        return self.run_chunks(batcher, len(rows[0]), starts, cut, timing)

    async def run_chunks(
        self,
        batcher: MicroBatcher[Arrays, Arrays],
        count: int,
        starts: Sequence[int],
        cut: Callable[[int], Arrays],
        timing: Timing | None,
        in_flight: int = CHUNKS_IN_FLIGHT,
    ) -> Arrays:
        """The results of `count` rows, in chunks of which `in_flight` are queued at a time.

        `cut` returns the inputs of the chunk that begins at the row that it is given, one of `starts`.
        """
        timing = timing or Timing()  # shared by the chunks: the batcher drops the others when one fails
        results: list[npt.NDArray[Any]] = []

        async def run_each(starts: Sequence[int]) -> None:
            for start in starts:
                chunk = await batcher.submit(cut(start), timing)
                if not results:
                    results.extend(np.empty((count, *array.shape[1:]), array.dtype) for array in chunk)
                for result, array in zip(results, chunk, strict=True):
                    result[start : start + len(array)] = array

        since = time.perf_counter()
        async with self._turn() if len(starts) > 1 else nullcontext():
            timing.queue += time.perf_counter() - since
            tasks = [asyncio.create_task(run_each(starts[first::in_flight])) for first in range(in_flight)]
            try:
                await asyncio.gather(*tasks)
            finally:  # a cancelled TaskGroup of Python 3.11 leaves a reference cycle that holds the whole request
                while tasks:
                    tasks.pop().cancel()
        return tuple(results)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._max_wait):
                await self._turns.acquire()
        except TimeoutError:
            message = "Too many large requests wait to be computed; try again in a moment."
            raise Unavailable(message, "queue_full") from None
        try:
            yield
        finally:
            self._turns.release()
