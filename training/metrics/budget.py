"""How much of a measurement fits into a given time."""

from __future__ import annotations

import time
from collections.abc import Callable

TIMED = 1 / 50
"""Share of a measurement's time that a trial must take for its speed to be believed."""


class Budget:
    """A number of seconds from now on, or math.inf."""

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    def images(self, measure: Callable[[int], object], most: int, share: float) -> int:
        """How many images, 1 to `most`, `measure` takes through in a `share` (0 to 1) of the time that is left.

        `measure` is timed on one image and on twice as many each time, until it takes long enough. Less than `most` is
        rounded down to one digit, so that two trainings are more often measured on the same images.
        """
        if self._left() == float("inf"):
            return most
        measure(1)  # the first call of anything is slow
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
