"""Commit: the number of the catalogue that all workers answer by, and the state of the models, in shared memory."""

from __future__ import annotations

import ctypes
import mmap

from service.telemetry.shared_memory import SharedSnapshots


class Commit:
    """It is created before the workers are forked; one process writes, and all read."""

    def __init__(self, number: int) -> None:
        memory = mmap.mmap(-1, ctypes.sizeof(ctypes.c_uint64))
        self.generation = ctypes.c_uint64.from_buffer(memory)
        """Number of the catalogue; its `value` is read for each request."""
        self.generation.value = number
        self._states = SharedSnapshots(1)

    def publish(self, states: bytes) -> None:
        """Replace the state of the models, JSON for /models."""
        self._states.publish(0, states)

    @property
    def states(self) -> bytes:
        """The state of the models as it was last published."""
        return self._states.read(0)
