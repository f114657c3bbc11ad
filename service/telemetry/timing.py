"""The time that a request spends in the queue and in computations."""

from __future__ import annotations


class Timing:
    """Queue and compute times of a request, and whether a batch of it failed."""

    __slots__ = ("batches", "compute", "failed", "pieces", "queue", "span", "total_pieces")

    def __init__(self, span: object | None = None) -> None:
        self.span = span
        """OpenTelemetry span of the request, if it is traced."""
        self.batches = 0
        """Batches computed so far."""
        self.queue = 0.0
        """Seconds until the first batch started."""
        self.compute = 0.0
        """Seconds of all batches."""
        self.pieces = 0
        """Pieces computed so far: batches, and tiles of large images."""
        self.total_pieces = 0
        """Pieces of all that the engine was asked for so far."""
        self.failed = False
        """Whether a batch failed; the others are then not computed."""
