"""Who is let in: the one place that counts requests in flight and says no."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from service.errors import DeadlineExceeded, ShareExceeded, Unavailable

RETRY = {"Retry-After": "1"}


class Admission:
    """Bounds the requests in flight, each key's share of them, and the time that each may take."""

    def __init__(self, *, queue_limit: int, keys: int, deadline: float) -> None:
        """With several keys each may hold an equal share of `queue_limit` places; `deadline` is in seconds."""
        self.status: Literal["starting", "ok", "draining"] = "starting"
        self._limit = queue_limit
        self._share = max(1, queue_limit // max(1, keys))
        self._deadline = deadline
        self._in_flight: Counter[bytes] = Counter()
        self._total = 0

    @property
    def in_flight(self) -> int:
        """Requests let in and not yet answered."""
        return self._total

    @asynccontextmanager
    async def place(self, key: bytes) -> AsyncIterator[None]:
        """Hold a place while the body runs; raises Unavailable, ShareExceeded or DeadlineExceeded."""
        if self.status != "ok":
            raise Unavailable(f"The service is {self.status}; try again in a moment.", headers=RETRY)
        if self._total >= self._limit:
            raise Unavailable(f"All {self._limit} places in the queue are taken; try again in a moment.", headers=RETRY)
        if self._in_flight[key] >= self._share:
            raise ShareExceeded(
                f"This key holds all {self._share} places of its share of the queue; wait for an answer first.",
                headers=RETRY,
            )
        self._total += 1
        self._in_flight[key] += 1
        try:
            async with asyncio.timeout(self._deadline):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded(f"No answer within {self._deadline:g} seconds.") from error
        finally:
            self._total -= 1
            self._in_flight[key] -= 1
            if not self._in_flight[key]:
                del self._in_flight[key]
