"""The micro-batcher: what is ready together is computed together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Generic, TypeVar

from service.telemetry.timing import Timing

logger = logging.getLogger("vae-service")

Item = TypeVar("Item")
Result = TypeVar("Result")


PAUSE, LONGEST_PAUSE = 0.06, 0.2
"""After a batch in an executor, as shares of the time that it took."""


_Waiting = tuple[Item, int, asyncio.Future[Result], Timing, float]
"""An item, its size, its result, where its time goes, and since when it waits."""


class MicroBatcher(Generic[Item, Result]):
    """Gathers items as long as every tick of the event loop brings more, and computes them in one call.

    A lone item is computed after a tick that brought no other, some microseconds later, and under load, while one batch
    is computed, the next one gathers by itself. With an `executor` the event loop stays free during the computation.
    What then waits is given a little more time, as long as others come: those just answered may come again, and would
    else always find the other half of them being computed. With `max_concurrent_batches` above 1 a whole batch is begun
    beside one that is being computed: copied to a GPU, say. An exception in the place
    of a result is raised for its item alone.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        limit: int,
        size: Callable[[Item], int],
        executor: Executor | None = None,
        max_concurrent_batches: int = 1,
        observe: Callable[[Sequence[Result | Exception], Sequence[Timing], float, int], None] | None = None,
    ) -> None:
        """`compute` answers items in order; a batch's sizes sum to at most `limit`, unless it is one item.

        `observe` is told of each batch, on the event loop, the results and the timings of its items, how long it took,
        in seconds, and its size. What it raises is logged.
        """
        self._compute = compute
        self._limit = limit
        self._size = size
        self._executor = executor
        self._lanes = max_concurrent_batches
        self._observe = observe
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self.waiting = 0
        """The sizes of what waits, summed."""
        self._gathered = 0
        self._busy = False
        self._computing = 0  # batches in the executor
        self._pause: asyncio.TimerHandle | None = None

    def submit(self, item: Item, timing: Timing | None = None) -> asyncio.Future[Result]:
        """Queue `item` and return a future of its result; cancelled before its batch begins, it is not computed.

        `timing` is updated with the time that it took.

        Items of one request have one `timing`: where one of them fails, those that wait are cancelled.
        """
        if not self._busy:
            self._loop = asyncio.get_running_loop()  # a system call, in Python 3.11
        future: asyncio.Future[Result] = self._loop.create_future()
        size = self._size(item)
        self._queue.append((item, size, future, timing or Timing(), time.perf_counter()))
        self.waiting += size
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._gather)
        elif self._pause and self.waiting >= self._limit:
            self._pause.cancel()
            self._gather()
        elif self._has_whole_batch():
            self._next_batch()
        return future

    def _has_whole_batch(self) -> bool:
        """For a lane that is free beside one that is not."""
        return 0 < self._computing < self._lanes and self.waiting >= self._limit

    def _gather(self) -> None:
        """Go on once a tick has brought nothing, or enough is there."""
        self._pause = None
        if self._gathered < self.waiting < self._limit:
            self._gathered = self.waiting
            self._loop.call_soon(self._gather)
        else:
            self._gathered = 0
            self._next_batch()

    def _wait_for_more(self, pause: float, until: float) -> None:
        """Go on once a pause has brought nothing, or enough is there, or at the time `until`."""
        if self._gathered < self.waiting < self._limit and self._loop.time() < until:
            self._gathered = self.waiting
            self._pause = self._loop.call_later(pause, self._wait_for_more, pause, until)
        else:
            self._gather()

    def _next_batch(self) -> None:
        batch = self._take()
        if not batch:
            self._busy = self._computing > 0
            return
        items = [item for item, _, _, _, _ in batch]
        loop = self._loop
        begun = time.perf_counter()  # the loop's clock stands still within a tick
        if self._executor is not None:

            def go_on(done: Future[Sequence[Result | Exception]]) -> None:
                took = self._deliver(batch, begun, done.result)
                self._computing -= 1
                if self._has_whole_batch():
                    self._next_batch()
                elif not self._computing:
                    self._wait_for_more(took * PAUSE, loop.time() + took * LONGEST_PAUSE)

            def hand_over(done: Future[Sequence[Result | Exception]]) -> None:
                with suppress(RuntimeError):  # the loop is closed: nobody waits for the results
                    loop.call_soon_threadsafe(go_on, done)

            computation = self._executor.submit(self._compute, items)
            self._computing += 1
            computation.add_done_callback(hand_over)
            if self._has_whole_batch():
                self._next_batch()
        else:
            self._deliver(batch, begun, lambda: self._compute(items))
            if self._queue:
                loop.call_soon(self._gather)
            else:
                self._busy = False

    def _take(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        total = 0
        while self._queue:
            waiting = self._queue[0]
            _, size, future, timing, _ = waiting
            if timing.failed:
                future.cancel()
            if not future.done():
                total += size
                if batch and total > self._limit:
                    break
                batch.append(waiting)
            self._queue.popleft()
            self.waiting -= size
        return batch

    def _deliver(
        self,
        batch: Sequence[_Waiting[Item, Result]],
        begun: float,
        compute: Callable[[], Sequence[Result | Exception]],
    ) -> float:
        """Give each its result; returns what computing them took since `begun`, seconds."""
        results: Sequence[Result | Exception]
        try:
            results = compute()
            if len(results) != len(batch):
                raise ValueError(f"{len(results)} results were computed for {len(batch)} items.")  # noqa: TRY301
        except Exception as error:
            results = [error] * len(batch)
        took = time.perf_counter() - begun
        for (_, _, future, timing, since), result in zip(batch, results, strict=True):
            if not timing.batches:
                timing.queue += begun - since
            timing.batches += 1
            timing.compute += took
            if isinstance(result, Exception):
                timing.failed = True
                if not future.done():
                    future.set_exception(result)
            elif not future.done():
                future.set_result(result)
        if self._observe:
            timings = [timing for _, _, _, timing, _ in batch]
            try:
                self._observe(results, timings, took, sum(size for _, size, _, _, _ in batch))
            except Exception:
                logger.exception("A batch was computed, but could not be counted.")
        return took
