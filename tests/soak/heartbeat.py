"""vae-serve that measures the gaps in the event loop of each worker: python -m tests.soak.heartbeat FLAGS FILE

FILE is shared memory: each worker writes there how long its event loop has been busy or starved at a stretch. The clock
knows nothing of the service but that it runs a `uvicorn.Server`.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import uvicorn

BEAT_S = 0.005
PLACES = 1024
"""Most workers that may use FILE."""
BEAT = struct.Struct("ddq")
"""Longest gap since it was last reset, time of the last beat (CLOCK_MONOTONIC), process id; the last is 0 in a free
place."""


class Clock:
    """Reads the gaps between beats from another process."""

    def __init__(self, file: Path) -> None:
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), PLACES * BEAT.size)

    def reset(self) -> None:
        """Forget all gaps."""
        for place, (_, last, pid) in enumerate(self._beats()):
            if pid:
                BEAT.pack_into(self._memory, place * BEAT.size, 0.0, last, pid)

    def longest_gap_s(self) -> float:
        """Longest gap of the running workers since `reset`, also one that has not ended."""
        now = time.monotonic()
        alive = [(gap, last) for gap, last, pid in self._beats() if pid and _is_alive(pid)]
        return max((max(gap, now - last - BEAT_S) for gap, last in alive), default=0.0)

    def is_turning(self) -> bool:
        """Was the last beat of each event loop just now?"""
        now = time.monotonic()
        return all(now - last < 10 * BEAT_S for _, last, pid in self._beats() if pid and _is_alive(pid))

    def _beats(self) -> Iterator[tuple[float, float, int]]:
        yield from BEAT.iter_unpack(self._memory[:])

    def beat(self, place: int, gap: float, now: float) -> None:
        """Writes the beats of this process."""
        longest, _, _ = BEAT.unpack_from(self._memory, place * BEAT.size)
        BEAT.pack_into(self._memory, place * BEAT.size, max(longest, gap), now, os.getpid())

    def free_place(self) -> int:
        """Take the first free place: workers start one after the other, or take one by their process id."""
        taken = [pid for _, _, pid in self._beats()]
        start = os.getpid() % PLACES
        return next(place % PLACES for place in range(start, start + PLACES) if not taken[place % PLACES])


def _is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def create(file: Path) -> Clock:
    """Create FILE, empty."""
    file.write_bytes(bytes(PLACES * BEAT.size))
    return Clock(file)


def keep_beating(clock: Clock) -> None:
    """Beat on the running event loop until it ends."""
    loop = asyncio.get_running_loop()
    place = clock.free_place()
    due = time.monotonic()

    def beat() -> None:
        nonlocal due
        now = time.monotonic()
        clock.beat(place, max(0.0, now - due), now)
        due = now + BEAT_S
        loop.call_later(BEAT_S, beat)

    beat()


@contextmanager
def beating(file: Path) -> Iterator[None]:
    """Make each `uvicorn.Server` that starts beat."""
    startup = uvicorn.Server.startup

    async def start(server: uvicorn.Server, *arguments: Any, **options: Any) -> None:
        await startup(server, *arguments, **options)
        keep_beating(Clock(file))

    with mock.patch.object(uvicorn.Server, "startup", start):
        yield


if __name__ == "__main__":
    from service.__main__ import main

    shared = Path(sys.argv.pop())
    with beating(shared):
        main()
