"""What happens between the pieces of a long computation: it may end, is reported, and lets others go first."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from service.inference.turns import Turns
from service.telemetry.timing import Timing

logger = logging.getLogger("vae-service")

FIRST_REPORT_S = 5.0
"""Seconds after which a computation is logged; it is again whenever its time has doubled."""


class Abandoned(Exception):
    """No client waits for the computation any more."""


class Batches(Protocol):
    """The batches of a micro-batcher that are being computed."""

    def is_awaited(self) -> bool:
        """Whether a client waits for one of them."""

    def timings(self) -> Sequence[Timing]:
        """Those of their requests."""


@dataclass
class _Computation:
    name: str
    batches: Batches
    count: int
    """Pieces."""
    start: float
    """By `time.perf_counter`."""
    done: int = 0
    report_s: float = FIRST_REPORT_S
    """Seconds at which it is logged next."""


class Progress:
    """Follows the computation that runs in the engine's thread, which calls its methods."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._current: _Computation | None = None

    @contextmanager
    def follow(self, name: str, batches: Batches, count: int) -> Iterator[None]:
        """Within the block a computation of `count` pieces runs, of the operation `name`."""
        self._current = _Computation(name, batches, count, time.perf_counter())
        try:
            yield
        finally:
            self._current = None

    def before_piece(self) -> None:
        """Raise Abandoned where the computation should end."""
        if self._current and (self._turns.closed or not self._current.batches.is_awaited()):
            raise Abandoned

    def between(self) -> None:
        """Report a piece and let short computations go first; then raise Abandoned where no client waits any more."""
        if not (current := self._current):
            return
        current.done += 1
        for timing in current.batches.timings():
            timing.pieces += 1
        self._report(current)
        self._current = None
        try:
            self._turns.yield_turn()
        finally:
            self._current = current
        self.before_piece()

    def _report(self, current: _Computation) -> None:
        seconds = time.perf_counter() - current.start
        if seconds >= current.report_s:
            current.report_s = 2 * seconds
            logger.info("%s: %d of %d pieces after %.0f s.", current.name, current.done, current.count, seconds)
