"""The course of one call: how long it may still take, and whether it is tried again."""

from __future__ import annotations

import random
import time
from typing import Any

from vae_client.errors import ConnectionFailed, Refused, ShareExceeded, SlowCaller, TimedOut, Unavailable, VAEError

RETRIED = (ConnectionFailed, SlowCaller, ShareExceeded, Unavailable)
"""What a second attempt can mend. No route changes anything, so none is unsafe to ask twice; but what the service could
not compute within its deadline (504) is more work for a service that has too much."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

_random = random.SystemRandom()


class Course:
    """Attempts and pauses between them, all within `timeout` seconds."""

    def __init__(self, timeout: float, retries: int) -> None:
        self._timeout = timeout
        self._ends = time.monotonic() + timeout
        self._retries = retries
        self._pause = FIRST_PAUSE_S

    def left(self) -> float:
        """Seconds, more than none; raises TimedOut."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise self.timed_out()
        return left

    def timed_out(self) -> TimedOut:
        """The error to raise at the end of the time."""
        return TimedOut(f"No whole answer came within {self._timeout:g} s.")

    def extensions(self) -> dict[str, Any]:
        """Of a request that httpx sends: each phase of it may take what is left when it begins."""
        timeouts: dict[str, float] = {}

        def trace(event: str, _: object) -> None:
            if event.endswith(".started"):
                timeouts.update(
                    dict.fromkeys(("connect", "pool", "read", "write"), max(self._ends - time.monotonic(), 1e-3))
                )

        trace(".started", None)
        return {"timeout": timeouts, "trace": trace}

    def pause_after(self, error: VAEError) -> float:
        """Seconds to wait before the next attempt; raises `error` where there is none."""
        if self._retries == 0 or not isinstance(error, RETRIED):
            raise error
        pause = self._pause * _random.uniform(0.5, 1)  # not all callers at the same moment
        if isinstance(error, Refused) and error.retry_after is not None:
            pause += error.retry_after
        if pause >= self._ends - time.monotonic():
            raise error
        self._retries -= 1
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
        return pause
