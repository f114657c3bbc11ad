"""Several workers on one port: started together, replaced when one dies, stopped together."""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from socket import socket
from types import FrameType

import torch

from service.app import Served, StartError, load_checkpoint
from service.metrics import Metrics
from service.noticeboard import Noticeboard
from service.server import Server
from service.settings import Settings

logger = logging.getLogger("vae-service")

START_FAILED = 2
START_LIMIT_S = 300
"""In which a worker has to begin to serve."""
STUCK_AFTER_S = 10
"""Without a turn of its event loop a worker is replaced."""
STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Worker:
    """A process that serves, and when its event loop last turned."""

    place: int
    """On the noticeboard; a worker that replaces another takes over its place."""
    process: BaseProcess
    heartbeat: ctypes.c_double
    """Of the monotonic clock, seconds."""

    @property
    def is_stuck(self) -> bool:
        """Has its event loop stopped turning?"""
        return time.monotonic() - self.heartbeat.value > STUCK_AFTER_S


class Supervisor:
    """Holds `settings.workers` processes, and replaces one that has died or is stuck.

    They are forked, so that they share what torch and the checkpoint take. A GPU cannot be taken through a fork; there
    each worker loads the checkpoint for itself.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = False
        self._status = 0
        self._workers: list[Worker] = []
        self._board = Noticeboard(settings.workers)

    def run(self) -> int:
        """Serve until told to stop, or until a worker cannot start; returns the exit status."""
        torch.set_num_threads(1)  # OpenMP's threads do not come through a fork; a worker that has none starts its own
        try:
            listener = Server(self._settings).config.bind_socket()
            self._checkpoint = load_checkpoint(self._settings) if self._settings.device == "cpu" else None
        except SystemExit:  # uvicorn could not bind, and has said why
            return START_FAILED
        except StartError as error:
            logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
            return START_FAILED
        gc.freeze()  # a collection in a worker would touch, and so copy, every shared page
        for stop in STOPS:
            signal.signal(stop, self._stop)
        while not self._stopping:
            while len(self._workers) < self._settings.workers and not self._stopping:
                self._start(listener)
            self._look_after()
        give_up = time.monotonic() + self._settings.drain_time + STUCK_AFTER_S
        for worker in self._workers:
            worker.process.join(max(0, give_up - time.monotonic()))
            worker.process.kill()
        return self._status

    def _look_after(self) -> None:
        """Wait for a moment, and let go of the workers that have ended, or should have."""
        wait([worker.process.sentinel for worker in self._workers], timeout=0.5)
        for worker in list(self._workers):
            process = worker.process
            if worker.is_stuck:
                logger.error("Worker %s has not responded for %s s.", process.pid, STUCK_AFTER_S)
                process.kill()
                process.join()
            if process.is_alive():
                continue
            self._workers.remove(worker)
            if process.exitcode == START_FAILED:
                self._status = START_FAILED
                self._stop(signal.SIGTERM, None)
            elif not self._stopping:
                logger.error("Worker %s ended with status %s; a new one starts.", process.pid, process.exitcode)

    def _start(self, listener: socket) -> None:
        context = multiprocessing.get_context("fork")
        heartbeat = context.RawValue(ctypes.c_double, time.monotonic() + START_LIMIT_S)
        place = min(set(range(self._settings.workers)) - {worker.place for worker in self._workers})
        arguments = (self._settings, self._checkpoint, self._board, place, listener, heartbeat)
        worker = Worker(place, context.Process(target=_work, args=arguments), heartbeat)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # a stop reaches the worker once it can tell one
        worker.process.start()
        self._workers.append(worker)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def _stop(self, sig: int, frame: FrameType | None) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.process.terminate()


def _work(
    settings: Settings,
    checkpoint: Served | None,
    board: Noticeboard,
    place: int,
    listener: socket,
    heartbeat: ctypes.c_double,
) -> None:
    parent = os.getppid()

    def beat() -> None:
        nonlocal parent
        heartbeat.value = time.monotonic()
        if os.getppid() != parent:  # the supervisor was killed: nobody would replace or stop this worker
            parent = os.getppid()
            signal.raise_signal(signal.SIGTERM)

    for stop in STOPS:
        signal.signal(stop, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    sys.exit(Server(settings, checkpoint, Metrics(board, place), beat).serve_forever([listener]))
