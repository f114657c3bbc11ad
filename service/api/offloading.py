"""Where work runs whose cost a caller's bytes decide: on the event loop if it is short, in a thread otherwise.

The cost is estimated from sizes, before anything is read. Every route and protocol goes through `Offloader.run`.
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
"""The longest estimate that runs on the event loop: as many requests as begin in one turn may each take it."""
LONG_S = 0.1
"""A longer estimate waits for one of the threads for long work, so that it does not delay short work."""
SHORT_BACKLOG_S, LONG_BACKLOG_S = 2.0, 5.0
"""Seconds of estimated work that may wait for each kind of threads. On a loaded machine it takes several times as long,
and a request may wait more than once: what came behind more would miss its deadline."""
THREADS = 2
"""Of each kind. Each may take as much memory as a whole picture does."""

UNPACKED_BYTE_S = 5e-9
"""Estimates in seconds, measured on a slow core (AMD EPYC of the first generation): unpacking to a byte."""
JSON_BYTE_S = 80e-9
"""Reading a byte of JSON."""
LONG_JSON_BYTE_S = 200e-9
"""Reading a byte of a document that may have long lists: in pieces, while other threads run."""
FORM_BYTE_S = 200e-9
"""Reading a byte of a multipart form of many small parts."""
VALUE_S = 10e-9
"""Checking and converting one number of an array."""
BYTE_S = 1e-9
"""Copying a byte."""
JSON_VALUE_S = 200e-9
"""Writing a number as JSON."""
PIXEL_S = 50e-9
"""Decoding a pixel of a picture, or writing one."""
OPENING_S = 0.02
"""Opening a picture, and decoding a small one."""


class Offloader:
    """The threads beside the event loop: some for short work, others for long."""

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
        """Call `function` in a thread for the request of `reservation`; it is estimated to take `seconds`.

        Raises Unavailable where too much work waits for a thread already, unless the request has begun there.
        """
        pool = self._short if seconds <= LONG_S else self._long
        if reservation.pool is not pool:
            if pool.seconds > pool.backlog:
                raise Unavailable("Too many requests wait to be read; try again in a moment.", "queue_full")
            reservation.pool = pool
        pool.add(seconds)
        work = reservation.work = pool.executor.submit(function, *arguments)
        work.add_done_callback(lambda _: pool.add(-seconds))
        try:
            return await asyncio.wrap_future(work)
        finally:
            if work.done():
                reservation.work = None
            del work  # an exception in it refers, by its traceback, to this frame and to the reservation

    def close(self) -> None:
        """Let the threads end; what waits for one is not begun."""
        for pool in (self._short, self._long):
            pool.executor.shutdown(wait=False, cancel_futures=True)


class _Pool:
    def __init__(self, name: str, backlog: float) -> None:
        self.executor = ThreadPoolExecutor(THREADS, name)
        self.backlog = backlog
        """The most seconds behind which a request may wait."""
        self.seconds = 0.0
        """Estimated, of the work that is waiting or running."""
        self._lock = Lock()

    def add(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds
