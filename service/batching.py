"""The micro-batcher: what is ready together is computed together."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


PAUSE, LONGEST_PAUSE = 0.06, 0.2
"""After a batch in an executor, as shares of the time that it took."""


class MicroBatcher(Generic[Item, Result]):
    """Gathers items as long as every tick of the event loop brings more, and computes them in one call.

    A lone item is computed after a tick that brought no other, some microseconds later, and under load, while one batch
    is computed, the next one gathers by itself. With an `executor` the event loop stays free during the computation.
    What then waits is given a little more time, as long as others come: those just answered may come again, and would
    else always find the other half of them being computed.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        limit: int,
        size: Callable[[Item], int],
        executor: Executor | None = None,
    ) -> None:
        """`compute` answers items in order; a batch's sizes sum to at most `limit`, unless it is one item."""
        self._compute = compute
        self._limit = limit
        self._size = size
        self._executor = executor
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._gathered = 0
        self._busy = False
        self._pause: asyncio.TimerHandle | None = None

    async def submit(self, item: Item) -> Result:
        """The result for `item`. Cancelled while it waits, it is not computed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append((item, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._gather)
        elif self._pause and len(self._queue) >= self._limit:
            self._pause.cancel()
            self._gather()
        return await future

    def _gather(self) -> None:
        """Go on once a tick has brought nothing, or enough is there."""
        self._pause = None
        if self._gathered < len(self._queue) < self._limit:
            self._gathered = len(self._queue)
            asyncio.get_running_loop().call_soon(self._gather)
        else:
            self._gathered = 0
            self._next_batch()

    def _wait_for_more(self, pause: float, until: float) -> None:
        """Go on once a pause has brought nothing, or enough is there, or at the time `until`."""
        loop = asyncio.get_running_loop()
        if self._gathered < len(self._queue) < self._limit and loop.time() < until:
            self._gathered = len(self._queue)
            self._pause = loop.call_later(pause, self._wait_for_more, pause, until)
        else:
            self._gather()

    def _next_batch(self) -> None:
        batch = self._take()
        if not batch:
            self._busy = False
            return
        items = [item for item, _ in batch]
        futures = [future for _, future in batch]
        loop = asyncio.get_running_loop()
        if self._executor is not None:
            begun = loop.time()
            computation = loop.run_in_executor(self._executor, self._compute, items)

            def go_on(done: asyncio.Future[Sequence[Result]]) -> None:
                self._deliver(futures, done.result)
                took = loop.time() - begun
                self._wait_for_more(took * PAUSE, loop.time() + took * LONGEST_PAUSE)

            computation.add_done_callback(go_on)
        else:
            self._deliver(futures, lambda: self._compute(items))
            loop.call_soon(self._gather)

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        total = 0
        while self._queue:
            item, future = self._queue[0]
            if not future.done():
                total += self._size(item)
                if batch and total > self._limit:
                    break
                batch.append((item, future))
            self._queue.popleft()
        return batch

    def _deliver(self, futures: Sequence[asyncio.Future[Result]], results: Callable[[], Sequence[Result]]) -> None:
        try:
            for future, result in zip(futures, results(), strict=True):
                if not future.done():
                    future.set_result(result)
        except Exception as error:
            for future in futures:
                if not future.done():
                    future.set_exception(error)
