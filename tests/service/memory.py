"""Read the memory of a process from /proc."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 100_000
"""A small body_limit, bytes."""


def megabytes(pid: int, what: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


@contextmanager
def growth_below(pid: int, limit: float) -> Iterator[None]:
    """Of a process's memory, at its peak, megabytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # forget the peak
    before = megabytes(pid, "VmRSS")
    yield
    assert megabytes(pid, "VmHWM") - before < limit
