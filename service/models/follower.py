"""Follower: a worker's thread that loads what the rollout proposes."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, Any

from service.models.loader import lower_priority
from service.models.messages import Outcome, Proposal, Report
from service.models.registry import Registry

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def follow(rollout: Connection, registry: Registry[Any]) -> None:
    """Begin to follow the rollout at the other end of `rollout`, until that is closed; called on the event loop."""
    loop = asyncio.get_running_loop()
    Thread(target=_follow, args=(rollout, registry, loop), name="follower", daemon=True).start()


def _follow(rollout: Connection, registry: Registry[Any], loop: asyncio.AbstractEventLoop) -> None:
    lower_priority()
    try:
        while True:
            message: Proposal | Outcome = rollout.recv()
            match message:
                case Proposal(catalogue):
                    rollout.send(Report(catalogue.number, *registry.prepare(catalogue)))
                case Outcome(committed=True):
                    _call(loop, registry)
                case Outcome():
                    registry.discard()
    except (EOFError, OSError, RuntimeError):  # the rollout, or the event loop, has ended
        return


def _call(loop: asyncio.AbstractEventLoop, registry: Registry[Any]) -> None:
    """Switch on the event loop, and wait for it: the next proposal builds upon this one."""
    done: Future[None] = Future()

    def switch() -> None:
        try:
            registry.switch()
        finally:  # whatever it raises, which the event loop logs, the next proposal has to be read
            done.set_result(None)

    loop.call_soon_threadsafe(switch)
    done.result()
