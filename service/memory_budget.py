"""Memory of the requests of one worker: charged before it is allocated, by estimates from sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Lock
from typing import Any

from service.errors import TooLarge, Unavailable

UNCOUNTED = 2**16
"""Bytes; smaller allocations are not charged. A request has a few of these at most."""
SMALL_BODY = 2**18
"""Bytes received of a body above which it counts towards the share of incomplete bodies."""
RECEIVING_SHARE = 4
"""Inverse of the share of the memory that incomplete large bodies may take: slow uploads leave room for others."""


Reserve = Callable[[int], None]
"""Charges bytes, before they are allocated, until the request ends; raises TooLarge or Unavailable."""


class MemoryBudget:
    """Bytes charged by all requests of a worker; thread-safe."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._receiving = 0
        self._lock = Lock()

    def reserve(self, size: int, held: int = 0) -> None:
        """Charge `size` bytes for a request that has charged `held` already.

        Raises TooLarge if both exceed the limit by themselves, and Unavailable if others hold too much of it.
        """
        if held + size > self.limit:
            megabytes = f"{(held + size) / 1e6:.0f} MB of memory; {self.limit / 1e6:.0f} MB is the limit"
            raise TooLarge(f"This request takes about {megabytes}. Send or ask for less at a time.")
        with self._lock:
            if self.used + size > self.limit:
                raise Unavailable("The memory for requests is in use; try again in a moment.", "memory")
            self.used += size

    def receive(self, size: int) -> None:
        """Charge `size` bytes of a body that is not complete; raises Unavailable, at a lower limit than `reserve`."""
        with self._lock:
            if self._receiving + size > self.limit // RECEIVING_SHARE or self.used + size > self.limit:
                raise Unavailable("The memory for incoming bodies is in use; try again in a moment.", "memory")
            self._receiving += size
            self.used += size

    def received(self, size: int) -> None:
        """Count `size` bytes that `receive` charged no longer as incomplete; they stay charged."""
        with self._lock:
            self._receiving -= size

    def adjust(self, change: int) -> None:
        """Charge (or release, if negative) memory that is already allocated; the limit is not checked."""
        with self._lock:
            self.used += change


class Reservation:
    """Bytes charged by one request."""

    __slots__ = ("_body", "_budget", "_receiving", "_size", "pool", "work")

    def __init__(self, budget: MemoryBudget) -> None:
        self._body = 0
        self._budget = budget
        self._receiving = 0
        self._size = 0
        self.pool: object = None
        """The thread pool that last worked for the request."""
        self.work: Future[Any] | None = None
        """A computation in a thread. It cannot be cancelled, and keeps its memory until it ends."""

    def add(self, size: int) -> None:
        """Charge `size` bytes until the request ends; raises TooLarge or Unavailable."""
        if size > UNCOUNTED:
            self._budget.reserve(size, self._size)
            self._size += size

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Charge `size` bytes within a block; raises TooLarge or Unavailable."""
        before = self._size
        self.add(size)
        added = self._size - before
        try:
            yield
        finally:
            self._size -= added
            self._budget.adjust(-added)

    def receive(self, total: int) -> None:
        """Charge an incomplete body of which `total` bytes were received; raises Unavailable."""
        size = total - self._body
        if total <= SMALL_BODY:
            self._budget.reserve(size, self._size)
        else:
            self._budget.receive(size)
            self._receiving += size
        self._body = total
        self._size += size

    def received(self, total: int) -> None:
        """Charge the rest of a complete body of `total` bytes; raises TooLarge or Unavailable."""
        self._budget.received(self._receiving)
        self._receiving = 0
        self.add(total - self._body)
        self._body = total

    def close(self) -> None:
        """Release everything at the end of the request, or of its computation in a thread."""
        if self.work is None:
            self._release()
        else:
            self.work.add_done_callback(self._release)

    def _release(self, _: object = None) -> None:
        self.work = None
        self._budget.received(self._receiving)
        self._receiving = 0
        self._budget.adjust(-self._size)
        self._size = 0
