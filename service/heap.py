"""What of the memory is kept, and what the garbage collector goes through: set once all is loaded."""

from __future__ import annotations

import ctypes
import gc

YOUNG_OBJECTS = 10_000
"""Between two collections; by Python's 700 a full micro-batch of requests would be one."""


def settle() -> None:
    """Give back what loading has left free, and take what was loaded out of the collector's sight.

    It would walk a hundred thousand objects, with torch half a million in 100 ms, at each full collection, and in a
    forked worker copy the pages that it shares.
    """
    give_back()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def give_back() -> None:
    """Let the system have the memory that is free: glibc keeps whatever something lies above that is not."""
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        malloc_trim(0)
