"""Watch: the rollout of a process that serves alone, in a thread."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from threading import Event, Thread

from service.models.loader import lower_priority
from service.models.rollout import Rollout

TURN_S = 0.25
"""Seconds between two turns of the rollout."""


def watch(rollout: Rollout) -> tuple[Connection, Callable[[], None]]:
    """Begin to turn `rollout`; return where it proposes changes, and what stops it."""
    ours, theirs = Pipe()
    rollout.add(ours)
    stopped = Event()

    def turn() -> None:
        lower_priority()
        while not stopped.is_set():
            rollout.turn(wait([ours], TURN_S))
        rollout.remove(ours)

    Thread(target=turn, name="rollout", daemon=True).start()
    return theirs, stopped.set
