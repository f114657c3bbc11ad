"""What comes in from all callers, and when it is read: so many requests at a time as are answered together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

ROUND = 64
"""Requests that are begun together; as many as a micro-batch may have, where those are larger."""
TURNS = 3
"""Of the event loop that they take where they are quick: one to begin, one to be computed, one to be answered."""


class Inbox:
    """Begins requests in the order in which they came, a round of them after the other.

    Several hundred that were begun at once would lie about until their batch, and be out of the processor's caches by
    then. What came is all that is kept of those that have to wait. A round does not wait for the answers of the one
    before: a slow model has all requests in its queue soon.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, micro_batch_limit: int = ROUND) -> None:
        self._loop = loop
        self._round = max(ROUND, micro_batch_limit)
        self._begun = 0  # in this turn, or in this round where others wait
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, begin: Callable[[], None]) -> None:
        """Have a request begun by `begin`: now, unless a round of them was already."""
        if self._begun == self._round:
            self._waiting.append(begin)
            return
        if not self._begun:
            self._loop.call_soon(self._go_on, TURNS)
        self._begun += 1
        begin()

    def _go_on(self, turns: int) -> None:
        """The next round, after so many turns."""
        if self._waiting and turns > 1:
            self._loop.call_soon(self._go_on, turns - 1)
            return
        self._begun = min(self._round, len(self._waiting))
        if self._begun:
            self._loop.call_soon(self._go_on, TURNS)
            for _ in range(self._begun):
                self._waiting.popleft()()
