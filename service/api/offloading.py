"""Runs work whose cost depends on the request: short work on the event loop, long work in a thread.

The cost is estimated from sizes, before anything is parsed. All routes and protocols use `Request.run`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar, TypeVarTuple, Unpack

from service.errors import Unavailable
from service.memory_budget import Reservation

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

INLINE_S = 0.002
"""Longest estimate that runs on the event loop; every request that starts in an iteration of it may take as long."""
LONG_S = 0.1
"""Longer work has threads of its own, so that it does not delay short work."""
SHORT_BACKLOG_S, LONG_BACKLOG_S = 2.0, 5.0
"""Seconds of estimated work that may be queued for each kind of thread. A loaded machine takes several times as long,
and a request may queue more than once: behind a longer queue it would miss its deadline."""
THREADS = 2
"""Threads of each kind. Each may use as much memory as a large picture."""

UNPACKED_BYTE_S = 5e-9
"""Decompressing, per byte of the result: an estimate in seconds, as all below, for a slow core (AMD EPYC, 2017)."""
JSON_BYTE_S = 80e-9
"""Parsing JSON, per byte."""
LONG_JSON_BYTE_S = 200e-9
"""Parsing JSON that may have long lists, per byte: in pieces, between which other threads run."""
FORM_BYTE_S = 200e-9
"""Parsing a multipart form of many small parts, per byte."""
VALUE_S = 10e-9
"""Checking and converting an array, per number."""
BYTE_S = 1e-9
"""Copying, per byte."""
JSON_VALUE_S = 200e-9
"""Writing JSON, per number."""
PIXEL_S = 50e-9
"""Decoding or encoding a picture, per pixel."""
OPENING_S = 0.02
"""Opening a picture, and decoding it if it is small."""


class Offloader:
    """Threads beside the event loop: some for short work, others for long work."""

    def __init__(self) -> None:
        self._short = _Pool("short", SHORT_BACKLOG_S)
        self._long = _Pool("long", LONG_BACKLOG_S)

    async def run(
        self,
        seconds: float,
        reservation: Reservation,
        function: Callable[[Unpack[Arguments]], Result],
        *arguments: *Arguments,
    ) -> Result:
        """Call `function`, estimated to take `seconds`, in a thread for the request of `reservation`.

        Raises Unavailable where too much work is queued, unless the request has run in these threads before.
        """
        pool = self._short if seconds <= LONG_S else self._long
        if reservation.pool is not pool:
            if pool.seconds > pool.backlog:
                raise Unavailable("Too many requests are waiting to be parsed; try again in a moment.", "queue_full")
            reservation.pool = pool
        pool.add(seconds)
        work = reservation.work = pool.executor.submit(function, *arguments)
        work.add_done_callback(lambda _: pool.add(-seconds))
        try:
            return await asyncio.wrap_future(work)
        finally:
            if work.done():
                reservation.work = None
            del work  # its exception refers to this frame by the traceback: no reference cycle

    def close(self) -> None:
        """Let the threads end; queued work is dropped."""
        for pool in (self._short, self._long):
            pool.executor.shutdown(wait=False, cancel_futures=True)


class _Pool:
    def __init__(self, name: str, backlog: float) -> None:
        self.executor = ThreadPoolExecutor(THREADS, name)
        self.backlog = backlog
        """Seconds of queued work at which a request is refused."""
        self.seconds = 0.0
        """Estimated seconds of the work that is queued or running."""
        self._lock = Lock()

    def add(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds
