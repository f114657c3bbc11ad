"""The micro-batcher: items that are ready at the same time are computed in one call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Generic, NamedTuple, Protocol, TypeVar

from service.telemetry.timing import Timing

logger = logging.getLogger("vae-service")

Item = TypeVar("Item")
Result = TypeVar("Result")
Received_contra = TypeVar("Received_contra", contravariant=True)


class Receiver(Protocol[Received_contra]):
    """What gets the result of an item: a future, or what behaves like one."""

    def done(self) -> bool:
        """Whether it has a result, or needs none any more."""

    def cancel(self) -> object:
        """Give up: another item of the same request failed."""

    def set_result(self, result: Received_contra, /) -> None:
        """Take the result."""

    def set_exception(self, error: Exception, /) -> None:
        """Take the error of the computation."""


class _Pending(NamedTuple, Generic[Item, Result]):
    item: Item
    size: int
    future: Receiver[Result]
    timing: Timing
    since: float
    """When it was queued, by `time.perf_counter`."""


class MicroBatcher(Generic[Item, Result]):
    """Collects items as long as every tick of the event loop brings more, then computes them in one call.

    An item that arrives alone waits for one tick, some microseconds. While a batch is computed, the next one collects.
    With an `executor` the event loop stays free during the computation. With `max_concurrent_batches` above 1 a full
    batch starts although another one is still being computed (a GPU computes one while it copies the other).

    There is no delay after a batch: waiting a share of its time for the clients that it answered changed the
    throughput by less than 1.5 %, at 1 to 256 connections.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        limit: int,
        size: Callable[[Item], int],
        executor: Executor | None = None,
        max_concurrent_batches: int = 1,
        kind: Callable[[Item], Hashable] | None = None,
        kind_limit: Callable[[Item], int] | None = None,
        observe: Callable[[Sequence[Result | Exception], Sequence[Timing], float, int], None] | None = None,
    ) -> None:
        """Create a batcher without items.

        Args:
            compute: Returns one result for each item, in order. An exception among the results fails its item alone.
            limit: Largest sum of the sizes of a batch; only a single item may be larger.
            size: Returns the size of an item.
            executor: Where `compute` runs; on the event loop if None.
            max_concurrent_batches: Batches that `executor` computes at the same time.
            kind: Returns the kind of an item: a batch has items of one kind. All are of one kind if None.
            kind_limit: Returns the limit of a batch of the kind of an item, where it is not `limit`.
            observe: Called on the event loop after each batch with the results and timings of its items, its duration
                in seconds and its size. What it raises is logged.

        """
        self._compute = compute
        self._limit = limit
        self._size = size
        self._executor = executor
        self._max_concurrent_batches = max_concurrent_batches
        self._kind = kind or (lambda _: None)
        self._kind_limit = kind_limit or (lambda _: limit)
        self._observe = observe
        self._in_progress: dict[int, Sequence[_Pending[Item, Result]]] = {}
        self._queue: deque[_Pending[Item, Result]] = deque()
        self.waiting = 0
        """Sum of the sizes of the items in the queue."""
        self._collected = 0
        """`waiting` at the last tick."""
        self._busy = False
        """Is a batch being collected or computed?"""
        self._computing = 0
        """Batches in the executor."""

    def is_awaited(self) -> bool:
        """Whether an item of the batches that are being computed still waits for its result; for any thread."""
        return any(not pending.future.done() for batch in tuple(self._in_progress.values()) for pending in batch)

    def timings(self) -> list[Timing]:
        """Those of the items that are being computed; for any thread."""
        return [pending.timing for batch in tuple(self._in_progress.values()) for pending in batch]

    def submit(self, item: Item, timing: Timing | None = None) -> asyncio.Future[Result]:
        """Queue `item` and return the future of its result; an item whose future is cancelled in time is not computed.

        `timing` is updated with the time that the item takes. The items of one request share one `timing`: when one of
        them fails, those in the queue are cancelled.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.submit_for(future, item, timing or Timing())
        return future

    def submit_for(self, future: Receiver[Result], item: Item, timing: Timing) -> None:
        """Queue `item`, as `submit` does; `future` gets its result in a later tick of the event loop."""
        if not self._busy:
            self._loop = asyncio.get_running_loop()  # a system call, in Python 3.11
        size = self._size(item)
        self._queue.append(_Pending(item, size, future, timing, time.perf_counter()))
        self.waiting += size
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._collect)
        elif self._can_add_full_batch():
            self._start_batch()

    def close(self) -> None:
        """Drop what computes the batches; no item may be submitted any more."""
        del self._compute, self._kind, self._kind_limit
        self._observe = None

    def _can_add_full_batch(self) -> bool:
        """Is a batch being computed, and may a full one start beside it?"""
        return 0 < self._computing < self._max_concurrent_batches and self.waiting >= self._limit

    def _collect(self) -> None:
        """Start a batch once a tick has brought no item, or the batch is full."""
        if self._collected < self.waiting < self._limit:
            self._collected = self.waiting
            self._loop.call_soon(self._collect)
        else:
            self._collected = 0
            self._start_batch()

    def _start_batch(self) -> None:
        batch = self._take_batch()
        if not batch:
            self._busy = self._computing > 0
            return
        items = [pending.item for pending in batch]
        start = time.perf_counter()
        loop = self._loop
        if self._executor is None:
            self._deliver(batch, start, lambda: self._compute(items))
            loop.call_soon(self._collect)
            return

        def finish(done: Future[Sequence[Result | Exception]]) -> None:
            self._deliver(batch, start, done.result)
            self._computing -= 1
            del self._in_progress[id(batch)]
            if self._can_add_full_batch():
                self._start_batch()
            elif not self._computing:
                loop.call_soon(self._collect)

        def return_to_loop(done: Future[Sequence[Result | Exception]]) -> None:
            with suppress(RuntimeError):  # the loop is closed: no client waits for the results
                loop.call_soon_threadsafe(finish, done)

        self._in_progress[id(batch)] = batch
        computation = self._executor.submit(self._compute, items)
        self._computing += 1
        computation.add_done_callback(return_to_loop)
        if self._can_add_full_batch():
            self._start_batch()

    def _take_batch(self) -> list[_Pending[Item, Result]]:
        """Remove from the queue the items of the next batch, and those that are cancelled."""
        batch: list[_Pending[Item, Result]] = []
        others: list[_Pending[Item, Result]] = []
        total, limit, kind = 0, 0, None
        while self._queue:
            pending = self._queue[0]
            if pending.timing.failed:
                pending.future.cancel()
            if not pending.future.done():
                if not batch:
                    limit, kind = self._kind_limit(pending.item), self._kind(pending.item)
                elif self._kind(pending.item) != kind:
                    others.append(self._queue.popleft())
                    continue
                elif total + pending.size > limit:
                    break
                total += pending.size
                batch.append(pending)
            self._queue.popleft()
            self.waiting -= pending.size
        self._queue.extendleft(reversed(others))
        return batch

    def _deliver(
        self,
        batch: Sequence[_Pending[Item, Result]],
        start: float,
        compute: Callable[[], Sequence[Result | Exception]],
    ) -> None:
        """Set each item's result and timing; `start` is when the computation began, by `time.perf_counter`."""
        results: Sequence[Result | Exception]
        try:
            results = compute()
            if len(results) != len(batch):
                raise ValueError(f"{len(results)} results were computed for {len(batch)} items.")  # noqa: TRY301
        except Exception as error:
            results = [error] * len(batch)
        seconds = time.perf_counter() - start
        for (_, _, future, timing, since), result in zip(batch, results, strict=True):
            if not timing.batches:
                timing.queue += start - since
            timing.batches += 1
            timing.pieces += 1
            timing.compute += seconds
            if isinstance(result, Exception):
                timing.failed = True
            if not future.done():
                _set(future, result)
        if self._observe:
            timings = [pending.timing for pending in batch]
            try:
                self._observe(results, timings, seconds, sum(pending.size for pending in batch))
            except Exception:
                logger.exception("A batch was computed, but could not be counted.")


def _set(future: Receiver[Result], result: Result | Exception) -> None:
    """Set the result of `future`. What it raises is logged: the other items of the batch still get their results."""
    try:
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
    except Exception:
        logger.exception("A batch was computed, but one of its results could not be delivered.")
