"""The time limit and the retries of one call."""

from __future__ import annotations

import random
import time
from typing import Any

import httpx

from vae_client.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    RateLimitError,
    RequestTimeoutError,
    ServiceUnavailableError,
)
from vae_client.options import Timeout

RETRYABLE_ERRORS = (APIConnectionError, RequestTimeoutError, RateLimitError, ServiceUnavailableError)
"""Errors after which a call is tried again, which is always safe: no route changes anything. Not 504: the service was
too slow, and each further attempt would add to its load."""
INITIAL_RETRY_DELAY_S = 0.1
"""Seconds before the first retry; each further one waits twice as long."""
MAX_RETRY_DELAY_S = 5.0
"""Limit of that, in seconds; the service's `Retry-After` is added to it."""
MAX_UNLIMITED_DELAY_S = 60.0
"""Longest pause before a retry, in seconds, of calls without a total limit: a `Retry-After` may ask for hours."""

_random = random.SystemRandom()


class Deadline:
    """Limits the time of one call, and its attempts after the first to `max_retries`."""

    def __init__(self, timeout: Timeout, max_retries: int) -> None:
        self._timeout = timeout
        self._ends: float | None = None
        self.phase_limits = httpx.Timeout(None).as_dict()
        """Seconds that each phase of each attempt may take, as httpx names them; None is no limit."""
        if isinstance(timeout, httpx.Timeout):
            self.phase_limits = timeout.as_dict()
        elif timeout is not None:
            self._ends = time.monotonic() + timeout
        self._retries = max_retries
        self._delay = INITIAL_RETRY_DELAY_S

    def remaining(self) -> float | None:
        """Return the seconds that are left, more than 0, or None if nothing limits the whole call.

        Raises:
            APITimeoutError: No time is left.

        """
        if self._ends is None:
            return None
        remaining = self._ends - time.monotonic()
        if remaining <= 0:
            raise self.timeout_error()
        return remaining

    def timeout_error(self) -> APITimeoutError:
        """Return the error to raise when no time is left."""
        if self._timeout is None or isinstance(self._timeout, httpx.Timeout):
            return APITimeoutError(f"A phase of the call exceeded its limit in {self._timeout}.")
        return APITimeoutError(f"No complete response arrived within {self._timeout:g} s.")

    def request_extensions(self) -> dict[str, Any]:
        """Return extensions for an httpx request that limit each of its phases, if need be to what is left by then."""
        ends = self._ends
        if ends is None:
            return {"timeout": self.phase_limits}
        timeouts: dict[str, float] = {}

        def trace(event: str, _: object) -> None:
            if event.endswith(".started"):
                remaining = max(ends - time.monotonic(), 1e-3)  # 0 would mean: without blocking
                timeouts.update(dict.fromkeys(("connect", "pool", "read", "write"), remaining))

        trace(".started", None)
        return {"timeout": timeouts, "trace": trace}

    def retry_delay(self, error: APIError) -> float:
        """Return the seconds to wait before the next attempt; raises `error` if there is to be none."""
        if self._retries <= 0 or not isinstance(error, RETRYABLE_ERRORS):
            raise error
        delay = self._delay * _random.uniform(0.5, 1)  # so that clients do not all retry at the same moment
        if isinstance(error, APIStatusError) and error.retry_after is not None:
            delay += error.retry_after
        if delay >= (MAX_UNLIMITED_DELAY_S if self._ends is None else self._ends - time.monotonic()):
            raise error
        self._retries -= 1
        self._delay = min(2 * self._delay, MAX_RETRY_DELAY_S)
        return delay
