"""Counters and histograms, cheap enough for each request, whose values can be added up over workers."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from service.errors import ServiceError

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
NATS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000)
DISTANCE = (0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7, 10, 20, 50, 100)

BOUNDS: dict[str, tuple[float, ...]] = {
    "vae_request_duration_seconds": SECONDS,
    "vae_queue_duration_seconds": SECONDS,
    "vae_compute_duration_seconds": SECONDS,
    "vae_batch_rows": ROWS,
    "vae_kl_divergence_nats": NATS,
    "vae_reconstruction_loss_nats": NATS,
    "vae_latent_distance": DISTANCE,
}
"""Upper bounds of the buckets of each histogram."""

REASONS = (
    "deadline",
    "draining",
    "failure",
    "key",
    "memory",
    "queue_full",
    "share",
    "slow_caller",
    "too_large",
    "unsound_output",
)
"""Reasons of refusals. Each series exists from the start, at 0, so that Prometheus' increase() sees its first event."""

FEW = 32
"""Up to this number of values a loop is faster than NumPy."""


class Histogram:
    """Number of values per bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Add a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def add_all(self, values: Sequence[float]) -> None:
        """Add several values."""
        if len(values) <= FEW:
            for value in values:
                self.add(value)
            return
        found = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self.counts))
        self.merge(found.tolist(), float(np.sum(values)))

    def merge(self, counts: Sequence[int], total: float) -> None:
        """Add the counts and the sum of another histogram with the same bounds."""
        self.counts = [own + other for own, other in zip(self.counts, counts, strict=True)]
        self.total += total


class Counters:
    """The counters and histograms of one version of a model in a worker, or those of no model."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int, str]] = Counter()
        """By route, method, status, and media type of the response."""
        self.refusals = Counter(dict.fromkeys(REASONS, 0))
        self.histograms: dict[tuple[str, str], Histogram] = {}
        """By name and value of the label, empty for a histogram without one."""

    def histogram(self, name: str, label: str = "") -> Histogram:
        """Return the histogram `name`, one of BOUNDS, for a value of its label."""
        found = self.histograms.get((name, label))
        if found is None:
            found = self.histograms[name, label] = Histogram(BOUNDS[name])
        return found

    def count_refusal(self, error: ServiceError) -> None:
        """Count an error that is a refusal of the service."""
        if error.reason:
            self.refusals[error.reason] += 1

    def snapshot(self) -> dict[str, Any]:
        """Return all values, for JSON."""
        return {
            "requests": [[*labels, count] for labels, count in self.requests.items()],
            "refusals": self.refusals,
            "histograms": [[*key, each.counts, each.total] for key, each in self.histograms.items()],
        }

    def add(self, snapshot: dict[str, Any]) -> None:
        """Add the values of a snapshot."""
        for route, method, status, media_type, count in snapshot["requests"]:
            self.requests[route, method, status, media_type] += count
        self.refusals.update(snapshot["refusals"])
        for name, label, counts, total in snapshot["histograms"]:
            self.histogram(name, label).merge(counts, total)


class CountersByModel(dict[tuple[str, str], Counters]):
    """The counters of each model, by its name and version; those of no model are at ("", "")."""

    def __init__(self) -> None:
        super().__init__({("", ""): Counters()})

    def __missing__(self, model: tuple[str, str]) -> Counters:
        counters = self[model] = Counters()
        return counters

    def keep(self, models: AbstractSet[tuple[str, str]]) -> None:
        """Drop the counters of models that are served no longer: else there would be more with each version."""
        for model in self.keys() - models - {("", "")}:
            del self[model]

    def snapshot(self) -> list[Any]:
        """Return all values, for JSON."""
        return [[*model, counters.snapshot()] for model, counters in list(self.items())]

    def add(self, snapshot: list[Any]) -> None:
        """Add the values of a snapshot."""
        for name, version, values in snapshot:
            self[name, version].add(values)
