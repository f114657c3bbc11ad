"""Memory that workers share: each posts what it has counted, and any of them can read it all."""

from __future__ import annotations

import mmap
import struct

HALF = 2**20
"""Bytes for a notice. A page of memory that is never written to takes none."""
HEAD = struct.Struct("<QQ")  # how many notices were posted, the length of the last one


class Noticeboard:
    """A place for each worker's last notice. Made before the workers are forked, it outlives them.

    A notice goes into the half of its place that the one before is not in, so that nobody reads one half written.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._memory = mmap.mmap(-1, places * (mmap.PAGESIZE + 2 * HALF))

    def post(self, place: int, notice: bytes) -> None:
        """Put `notice` where the last one was."""
        if len(notice) > HALF:
            raise ValueError(f"A notice of {len(notice)} bytes does not fit into {HALF}.")
        start = self._start(place)
        posted, _ = HEAD.unpack_from(self._memory, start)
        half = start + mmap.PAGESIZE + (posted + 1) % 2 * HALF
        self._memory[half : half + len(notice)] = notice
        HEAD.pack_into(self._memory, start, posted + 1, len(notice))

    def read(self, place: int) -> bytes:
        """The last notice; empty where there was none."""
        start = self._start(place)
        posted, length = HEAD.unpack_from(self._memory, start)
        half = start + mmap.PAGESIZE + posted % 2 * HALF
        return self._memory[half : half + length]

    def read_all(self) -> list[bytes]:
        """The last notice of each place that has one."""
        return [notice for place in range(self._places) if (notice := self.read(place))]

    def _start(self, place: int) -> int:
        return place * (mmap.PAGESIZE + 2 * HALF)
