"""A time budget for measurements."""

from __future__ import annotations

import time
from collections.abc import Callable

TIMED = 1 / 50
"""Least duration of a trial, as a share of the measurement's time; a shorter one is too noisy to extrapolate."""


class Budget:
    """A budget of `seconds` from now on; math.inf for no limit."""

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    def images(self, measure: Callable[[int], object], most: int, share: float) -> int:
        """Estimate how many images, 1 to `most`, `measure` can process in a `share` (0 to 1) of the time left.

        Times `measure` on 1, 2, 4, … images until it takes long enough. A result below `most` is rounded down to one
        digit, so that two trainings are more often measured on the same images.
        """
        if self._left() == float("inf"):
            return most
        measure(1)  # warm-up
        count = 1
        while count < most:
            left = self._left()
            started = time.perf_counter()
            measure(count)
            seconds = time.perf_counter() - started
            if seconds > TIMED * share * left:
                fitting = max(1, int(count * share * left / seconds))
                digit: int = 10 ** (len(str(fitting)) - 1)
                return min(most, fitting // digit * digit)
            count *= 2
        return most

    def _left(self) -> float:
        return max(0.0, self._end - time.perf_counter())
