"""Memory settings of a process: glibc's malloc, and Python's garbage collector once everything is loaded."""

from __future__ import annotations

import ctypes
import gc

GC_THRESHOLD = 10_000
"""Allocated objects between two collections; with Python's 700, each full micro-batch of requests would cause one."""
KEEP_FREE = 2**26
"""Bytes of free memory that each of glibc's arenas keeps; 64 MiB is the largest size of a thread's arena."""
MAX_MMAP_THRESHOLD = 2**25
"""Bytes; the largest threshold that glibc allows for blocks that are mapped by themselves."""
LARGE_BLOCK = 2**18
"""Bytes; a larger block is mapped by itself and unmapped when freed. By default glibc raises this threshold to 32 MB:
images and arrays of large requests would then lie between small blocks, and their memory would not be returned."""
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Parameters of mallopt(3): M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD."""


def tune_malloc() -> None:
    """Keep the memory of one batch for the next one.

    By default glibc returns a thread's whole arena after each pass of a large enough network, and the system clears all
    its pages again for the next pass: up to a third of the time of a small AutoencoderKL. `trim_malloc` returns it
    while the service is idle.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in (
            (TRIM_THRESHOLD, KEEP_FREE),
            (TOP_PAD, KEEP_FREE),
            (MMAP_THRESHOLD, MAX_MMAP_THRESHOLD),
        ):
            mallopt(parameter, value)


def map_large_blocks() -> None:
    """Return each block of more than LARGE_BLOCK bytes to the system when it is freed."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(MMAP_THRESHOLD, LARGE_BLOCK)


def tune_gc() -> None:
    """Collect garbage less often: also while the service is imported and loaded, of which little is garbage."""
    gc.set_threshold(GC_THRESHOLD)


def freeze_gc() -> None:
    """Return the memory that loading has freed, and exclude what was loaded from garbage collections.

    A full collection would visit a hundred thousand objects, with torch half a million in 100 ms, and in a forked
    worker it would copy the pages that the worker shares.
    """
    trim_malloc()
    gc.freeze()


def trim_malloc() -> None:
    """Return free heap memory to the system (malloc_trim(3)): free blocks below a used one are else kept."""
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        malloc_trim(0)
