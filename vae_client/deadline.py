"""The time limit and the retries of one call."""

from __future__ import annotations

import random
import time
from typing import Any

from vae_client.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    RateLimitError,
    RequestTimeoutError,
    ServiceUnavailableError,
)

RETRYABLE_ERRORS = (APIConnectionError, RequestTimeoutError, RateLimitError, ServiceUnavailableError)
"""Errors after which a call is tried again, which is always safe: no route changes anything. Not 504: the service was
too slow, and each further attempt would add to its load."""
INITIAL_RETRY_DELAY_S = 0.1
"""Seconds before the first retry; each further one waits twice as long."""
MAX_RETRY_DELAY_S = 5.0
"""Limit of that, in seconds; the service's `Retry-After` is added to it."""

_random = random.SystemRandom()


class Deadline:
    """Limits one call to `timeout` seconds, which all of its attempts share, and to `retries` further attempts."""

    def __init__(self, timeout: float, retries: int) -> None:
        self._timeout = timeout
        self._ends = time.monotonic() + timeout
        self._retries = retries
        self._delay = INITIAL_RETRY_DELAY_S

    def remaining(self) -> float:
        """Return the seconds that are left, more than 0; raises APITimeoutError if there are none."""
        remaining = self._ends - time.monotonic()
        if remaining <= 0:
            raise self.timeout_error()
        return remaining

    def timeout_error(self) -> APITimeoutError:
        """Return the error to raise when no time is left."""
        return APITimeoutError(f"No complete response arrived within {self._timeout:g} s.")

    def request_extensions(self) -> dict[str, Any]:
        """Return extensions for an httpx request that limit each of its phases to what is left when it starts."""
        timeouts: dict[str, float] = {}

        def trace(event: str, _: object) -> None:
            if event.endswith(".started"):
                remaining = max(self._ends - time.monotonic(), 1e-3)  # 0 would mean: without blocking
                timeouts.update(dict.fromkeys(("connect", "pool", "read", "write"), remaining))

        trace(".started", None)
        return {"timeout": timeouts, "trace": trace}

    def retry_delay(self, error: APIError) -> float:
        """Return the seconds to wait before the next attempt; raises `error` if there is to be none."""
        if self._retries == 0 or not isinstance(error, RETRYABLE_ERRORS):
            raise error
        delay = self._delay * _random.uniform(0.5, 1)  # so that clients do not all retry at the same moment
        if isinstance(error, APIStatusError) and error.retry_after is not None:
            delay += error.retry_after
        if delay >= self._ends - time.monotonic():
            raise error
        self._retries -= 1
        self._delay = min(2 * self._delay, MAX_RETRY_DELAY_S)
        return delay
