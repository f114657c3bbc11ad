"""Memory that workers share: each posts what it has counted, and any of them can read it all."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from zlib import crc32

HALF = 2**20
"""Bytes for a notice and its head. A page of memory that is never written to takes none."""
HEAD = struct.Struct("<QII")  # how many notices there were with this one, its length, its CRC
ROOM = HALF - HEAD.size


class SharedSnapshots:
    """A place for each worker's last notice. Made before the workers are forked, it outlives them.

    A notice goes into the half of its place that the one before is not in, and is believed if its CRC is right: nobody
    reads one half written, nor one that a worker was killed over.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._memory = mmap.mmap(-1, places * 2 * HALF)

    def post(self, place: int, notice: bytes) -> None:
        """Put `notice` where the last one was."""
        if len(notice) > ROOM:
            raise ValueError(f"A notice of {len(notice)} bytes does not fit into {ROOM}.")
        last, _ = self._last(place)
        start = self._start(place, last + 1)
        self._memory[start + HEAD.size : start + HEAD.size + len(notice)] = notice
        HEAD.pack_into(self._memory, start, last + 1, len(notice), crc32(notice))

    def read(self, place: int) -> bytes:
        """The last notice; empty where there was none."""
        return self._last(place)[1]

    def read_all(self) -> list[bytes]:
        """The last notice of each place that has one."""
        return [notice for place in range(self._places) if (notice := self.read(place))]

    def _last(self, place: int) -> tuple[int, bytes]:
        """The last notice that is whole, and its number."""
        return max(self._whole(place), default=(0, b""))

    def _whole(self, place: int) -> Iterator[tuple[int, bytes]]:
        for half in (0, 1):
            start = self._start(place, half)
            number, length, checksum = HEAD.unpack_from(self._memory, start)
            notice = self._memory[start + HEAD.size : start + HEAD.size + min(length, ROOM)]
            if crc32(notice) == checksum:
                yield number, notice

    def _start(self, place: int, number: int) -> int:
        return (2 * place + number % 2) * HALF
