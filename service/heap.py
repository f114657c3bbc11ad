"""What of the memory is kept, and what the garbage collector goes through: set once all is loaded."""

from __future__ import annotations

import ctypes
import gc

YOUNG_OBJECTS = 10_000
"""Between two collections; by Python's 700 a full micro-batch of requests would be one."""


KEPT = 2**26
"""Bytes of free memory that each of glibc's arenas keeps: as large as one that a thread has can become."""
KEPT_PIECE = 2**25
"""Bytes; the largest piece that is taken out of an arena: glibc allows no more."""
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""glibc's names for them are M_TRIM_THRESHOLD and so on (mallopt(3))."""


def keep() -> None:
    """Keep what a batch has used for the next one.

    A thread's arena is else given back whole after each pass of a network of some size, and all its pages are cleared
    anew in the next one: up to a third of the time of a small AutoencoderKL. `give_back` takes it once nobody calls.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in ((TRIM_THRESHOLD, KEPT), (TOP_PAD, KEPT), (MMAP_THRESHOLD, KEPT_PIECE)):
            mallopt(parameter, value)


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
