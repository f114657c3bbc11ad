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
LARGE_PIECE = 2**18
"""Bytes; a larger piece is mapped by itself and unmapped when it is freed. glibc would raise the threshold to 32 MB by
itself: pictures and arrays of large requests would then lie between small pieces, and their memory would be kept."""
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""glibc's names for them are M_TRIM_THRESHOLD and so on (mallopt(3))."""


def tune_malloc() -> None:
    """Keep what a batch has used for the next one.

    A thread's arena is else given back whole after each pass of a network of some size, and all its pages are cleared
    anew in the next one: up to a third of the time of a small AutoencoderKL. `trim_malloc` takes it once nobody calls.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in ((TRIM_THRESHOLD, KEPT), (TOP_PAD, KEPT), (MMAP_THRESHOLD, KEPT_PIECE)):
            mallopt(parameter, value)


def map_large_pieces() -> None:
    """Have each piece of more than LARGE_PIECE bytes given back to the system when it is freed."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(MMAP_THRESHOLD, LARGE_PIECE)


def freeze_gc() -> None:
    """Give back what loading has left free, and hide what was loaded from the collector.

    It would walk a hundred thousand objects, with torch half a million in 100 ms, at each full collection, and in a
    forked worker copy the pages that it shares.
    """
    trim_malloc()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def trim_malloc() -> None:
    """Let the system have the memory that is free: glibc keeps whatever something lies above that is not."""
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        malloc_trim(0)
