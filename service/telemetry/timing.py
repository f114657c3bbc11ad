"""Where the time of a request goes."""

from __future__ import annotations


class Timing:
    """How long a request waited and was computed, in seconds, and whether a part of it failed."""

    __slots__ = ("batches", "compute", "failed", "queue", "span")

    def __init__(self, span: object | None = None) -> None:
        self.span = span
        """The request's, where it is traced."""
        self.batches = 0
        """That it took, as yet."""
        self.queue = 0.0
        """Until the first of them was begun."""
        self.compute = 0.0
        """Of all of them."""
        self.failed = False
        """Where one of them did, the others are not computed."""
