"""Memory that workers share: each publishes its counters, and each can read those of all."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from zlib import crc32

BUFFER_BYTES = 2**20
"""Bytes for a snapshot and its header. Pages that are never written to take no memory."""
HEADER = struct.Struct("<QII")  # how many notices there were with this one, its length, its CRC
MAX_BYTES = BUFFER_BYTES - HEADER.size


class SharedSnapshots:
    """The latest snapshot of each worker. It is created before the workers are forked.

    Each worker has two buffers and writes into them in turn. A snapshot is valid if its CRC is right, so that nobody
    reads one that is half written, nor one during which a worker was killed.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._memory = mmap.mmap(-1, workers * 2 * BUFFER_BYTES)

    def publish(self, worker: int, snapshot: bytes) -> None:
        """Replace the latest snapshot of `worker`, an index; raises ValueError for more than MAX_BYTES."""
        if len(snapshot) > MAX_BYTES:
            raise ValueError(f"A snapshot of {len(snapshot)} bytes does not fit into {MAX_BYTES}.")
        number, _ = self._latest(worker)
        start = self._start(worker, number + 1)
        self._memory[start + HEADER.size : start + HEADER.size + len(snapshot)] = snapshot
        HEADER.pack_into(self._memory, start, number + 1, len(snapshot), crc32(snapshot))

    def read(self, worker: int) -> bytes:
        """Return the latest snapshot of `worker`, empty if there is none."""
        return self._latest(worker)[1]

    def read_all(self) -> list[bytes]:
        """Return the latest snapshot of each worker that has one."""
        return [snapshot for worker in range(self._workers) if (snapshot := self.read(worker))]

    def _latest(self, worker: int) -> tuple[int, bytes]:
        """Return the number of the latest valid snapshot, and the snapshot."""
        return max(self._valid(worker), default=(0, b""))

    def _valid(self, worker: int) -> Iterator[tuple[int, bytes]]:
        for buffer in (0, 1):
            start = self._start(worker, buffer)
            number, length, checksum = HEADER.unpack_from(self._memory, start)
            snapshot = self._memory[start + HEADER.size : start + HEADER.size + min(length, MAX_BYTES)]
            if crc32(snapshot) == checksum:
                yield number, snapshot

    def _start(self, worker: int, number: int) -> int:
        """Return the offset of the buffer for snapshot `number`."""
        return (2 * worker + number % 2) * BUFFER_BYTES
