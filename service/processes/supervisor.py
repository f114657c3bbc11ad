"""Several workers on one port: started together, replaced when one dies, stopped together."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from logging.config import dictConfig
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from socket import socket
from types import FrameType

from service.inference.loading import LoadedModel, StartError, load_checkpoint
from service.malloc import freeze_gc
from service.processes.server import Server
from service.settings import Settings
from service.telemetry.log_config import log_config
from service.telemetry.prometheus import Metrics
from service.telemetry.shared_memory import SharedSnapshots

logger = logging.getLogger("vae-service")

START_FAILED = 2
START_LIMIT_S = 300
"""In which a worker has to begin to serve."""
STUCK_AFTER_S = 10
"""Without a turn of its event loop a worker is replaced."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1, 60
"""Before the next start, where one has failed; doubled each time."""
STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Worker:
    """A process that serves, and when its event loop last turned."""

    place: int
    """On the noticeboard; a worker that replaces another takes over its place."""
    process: BaseProcess
    heartbeat: ctypes.c_double
    """Of the monotonic clock, seconds; in the future until it serves."""

    @property
    def has_served(self) -> bool:
        """Has it come so far?"""
        return self.heartbeat.value <= time.monotonic()

    @property
    def is_stuck(self) -> bool:
        """Has its event loop stopped turning?"""
        return time.monotonic() - self.heartbeat.value > STUCK_AFTER_S


class Supervisor:
    """Holds `settings.workers` processes, and replaces one that has died or is stuck.

    They are forked, so that they share what the checkpoint takes. Neither a GPU nor threads, OpenMP's too, can be taken
    through a fork; where there are such, each worker loads the checkpoint for itself.
    """

    def __init__(self, settings: Settings, listener: socket) -> None:
        """`listener` is bound to the address of `settings`."""
        dictConfig(log_config(settings.log_level, settings.log_format))
        self._settings = settings
        self._listener = listener
        self._stopping = False
        self._all_stop = multiprocessing.get_context("fork").RawValue(ctypes.c_bool, False)  # the workers read it
        self._status = 0
        self._workers: list[Worker] = []
        self._all_served = False  # then what keeps a worker from its start is not the settings
        self._pause = FIRST_PAUSE_S
        self._paused_until = 0.0
        self._board = SharedSnapshots(settings.workers)

    def run(self) -> int:
        """Serve until told to stop, or until a worker cannot start; returns the exit status."""
        try:
            is_shared = self._settings.device == "cpu" and self._settings.torch_threads == 1
            self._loaded = load_checkpoint(self._settings) if is_shared else None
        except StartError as error:
            logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
            return START_FAILED
        freeze_gc()
        for stop in STOPS:
            signal.signal(stop, self._handle_stop)
        while not self._stopping:
            while self._lacks_workers():
                self._start()
            self._look_after()
        give_up = time.monotonic() + self._settings.drain_time + STUCK_AFTER_S
        for worker in self._workers:
            worker.process.join(max(0, give_up - time.monotonic()))
            worker.process.kill()
        return self._status

    def _lacks_workers(self) -> bool:
        missing = len(self._workers) < self._settings.workers
        return missing and not self._stopping and time.monotonic() >= self._paused_until

    def _look_after(self) -> None:
        """Wait for a moment, and let go of the workers that have ended, or should have."""
        wait([worker.process.sentinel for worker in self._workers], timeout=0.5)
        if len(self._workers) == self._settings.workers and all(worker.has_served for worker in self._workers):
            self._all_served = True
            self._pause = FIRST_PAUSE_S
        for worker in list(self._workers):
            process = worker.process
            if worker.is_stuck:
                logger.error("Worker %s has not responded for %s s.", process.pid, STUCK_AFTER_S)
                process.kill()
                process.join()
            if process.is_alive():
                continue
            self._workers.remove(worker)
            if process.exitcode == START_FAILED and not self._all_served:
                self._status = START_FAILED
                self._stop()
            elif not self._stopping:
                self._give_up(worker)

    def _give_up(self, worker: Worker) -> None:
        """Make way for another in its place, at once if it has served."""
        process = worker.process
        if worker.has_served:
            logger.error("Worker %s ended with status %s; a new one starts.", process.pid, process.exitcode)
            return
        logger.error(
            "Worker %s could not start, status %s; the next one tries in %s s.",
            *(process.pid, process.exitcode, self._pause),
        )
        self._paused_until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        heartbeat = context.RawValue(ctypes.c_double, time.monotonic() + START_LIMIT_S)
        place = min(set(range(self._settings.workers)) - {worker.place for worker in self._workers})
        arguments = (self._settings, self._loaded, self._board, place, self._listener, heartbeat, self._all_stop)
        worker = Worker(place, context.Process(target=_work, args=arguments), heartbeat)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # a stop reaches the worker once it can tell one
        if not self._stopping:  # a stop before the mask reached only the workers that were there
            worker.process.start()
            self._workers.append(worker)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def _handle_stop(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal; a second one stops at once."""
        if self._stopping:
            for worker in self._workers:
                worker.process.kill()
        else:
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._all_stop.value = True
        for worker in self._workers:
            worker.process.terminate()


def _work(
    settings: Settings,
    loaded: LoadedModel | None,
    board: SharedSnapshots,
    place: int,
    listener: socket,
    heartbeat: ctypes.c_double,
    all_stop: ctypes.c_bool,
) -> None:
    parent = os.getppid()

    def beat() -> None:
        nonlocal parent
        heartbeat.value = time.monotonic()
        if os.getppid() != parent:  # the supervisor was killed: nobody would replace or stop this worker
            parent = os.getppid()
            all_stop.value = True
            signal.raise_signal(signal.SIGTERM)

    for stop in STOPS:
        signal.signal(stop, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    server = Server(
        settings,
        (lambda: loaded) if loaded else None,
        Metrics(board, place),
        beat,
        has_supervisor=True,
        all_stop=lambda: all_stop.value,
    )
    sys.exit(server.serve_forever(listener))
