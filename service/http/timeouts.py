"""How long a connection waits for its client."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for a client, at least; up to a quarter of the shorter one more."""

    client: float
    """For the first request, for the rest of its head, for more of its body, for the reading of a response."""
    idle: float
    """For the next request."""
