"""Requests that arrive together on many connections are begun in rounds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

ROUND = 64
"""Requests that are begun in one round; `micro_batch_limit`, where that is larger."""
TURNS = 3
"""Turns of the event loop between two rounds: in one a request is begun, in one computed, in one its response sent."""


class Inbox:
    """Begins requests in the order in which they arrive, at most a round of them at a time.

    With 256 connections this gives 10 % more requests/s (POST /decode, one core); with 32 it changes nothing. Hundreds
    of requests that are begun at once fall out of the processor's caches before their batch is computed; of those that
    wait here, only the received bytes are kept. A round does not wait for the responses to the one before, so a slow
    model soon has all requests in its queue.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, micro_batch_limit: int = ROUND) -> None:
        self._loop = loop
        self._round = max(ROUND, micro_batch_limit)
        self._begun = 0  # in this turn; in this round, while others wait
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, begin: Callable[[], None]) -> None:
        """Call `begin`, which begins a request: now, or in a later round if this one is full."""
        if self._begun == self._round:
            self._waiting.append(begin)
            return
        if not self._begun:
            self._loop.call_soon(self._begin_round, TURNS)
        self._begun += 1
        begin()

    def _begin_round(self, turns: int) -> None:
        """Begin the next round, after so many turns if requests wait for it."""
        if self._waiting and turns > 1:
            self._loop.call_soon(self._begin_round, turns - 1)
            return
        self._begun = min(self._round, len(self._waiting))
        if self._begun:
            self._loop.call_soon(self._begin_round, TURNS)
            for _ in range(self._begun):
                self._waiting.popleft()()
