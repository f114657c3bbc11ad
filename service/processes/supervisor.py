"""Several worker processes on one port: started together, replaced when one ends, stopped together."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from logging.config import dictConfig
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from socket import socket
from types import FrameType

from service.inference.loading import StartError
from service.malloc import freeze_gc
from service.models.loader import load_entry
from service.models.opening import Opened, entry_of_checkpoint, open_checkpoint, open_rollout
from service.models.rollout import Rollout
from service.processes.server import Server
from service.settings import Settings
from service.telemetry.log_config import log_config
from service.telemetry.prometheus import Metrics
from service.telemetry.shared_memory import SharedSnapshots

logger = logging.getLogger("vae-service")

START_FAILED = 2
START_LIMIT_S = 300
"""Seconds in which a worker has to begin to serve."""
STUCK_AFTER_S = 10
"""Seconds without a turn of its event loop after which a worker is replaced."""
MIN_RESTART_DELAY_S, MAX_RESTART_DELAY_S = 1, 60
"""Seconds before the next start after one has failed; the delay doubles each time."""
STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Worker:
    """A process that serves, and the time of its last heartbeat."""

    slot: int
    """In the shared snapshots; a replacement takes over the slot."""
    process: BaseProcess
    heartbeat: ctypes.c_double
    """Time of the last one, seconds of the monotonic clock; in the future until the worker serves."""
    changes: Connection
    """Where the rollout tells it of new models."""

    @property
    def has_served(self) -> bool:
        """Whether it has begun to serve."""
        return self.heartbeat.value <= time.monotonic()

    @property
    def is_stuck(self) -> bool:
        """Whether its event loop is blocked, or it has not started to serve in time."""
        return time.monotonic() - self.heartbeat.value > STUCK_AFTER_S


class Supervisor:
    """Runs `settings.workers` processes, replaces each that has ended or is stuck, and changes the models of all.

    They are forked, so that they share the memory of the models. Neither a GPU nor threads, such as OpenMP's, survive a
    fork; a service that uses them loads the models in each worker.
    """

    def __init__(self, settings: Settings, listener: socket) -> None:
        """`listener` is bound to the address of `settings`."""
        dictConfig(log_config(settings.log_level, settings.log_format))
        self._settings = settings
        self._listener = listener
        self._stopping = False
        self._all_stop = multiprocessing.get_context("fork").RawValue(ctypes.c_bool, False)  # shared with workers
        self._status = 0
        self._workers: list[Worker] = []
        self._all_served = False  # once they did, a start that fails is not the fault of the settings
        self._restart_delay = MIN_RESTART_DELAY_S
        self._next_start = 0.0
        self._snapshots = SharedSnapshots(settings.workers)
        self._rollout: Rollout | None = None
        self._woken, self._wake = multiprocessing.Pipe(duplex=False)  # ends a wait when there is something to look at

    def run(self) -> int:
        """Serve until a signal stops it, or until a worker cannot start; return the exit status."""
        try:
            self._opened = self._open()
        except StartError as error:
            logger.error("%s", error)  # noqa: TRY400 - the message suffices
            return START_FAILED
        freeze_gc()
        for stop in STOPS:
            signal.signal(stop, self._handle_stop)
        if rollout := self._rollout:
            signal.signal(signal.SIGHUP, partial(self._handle_look, rollout))
        while not self._stopping:
            while self._lacks_workers():
                self._start()
            self._check_workers()
        deadline = time.monotonic() + self._settings.drain_time + STUCK_AFTER_S
        for worker in self._workers:
            worker.process.join(max(0, deadline - time.monotonic()))
            worker.process.kill()
        return self._status

    def _open(self) -> Opened:
        """Open the models, and load them where the workers can share them."""
        settings = self._settings
        is_shared = settings.device == "cpu" and settings.torch_threads == 1
        if settings.models is None:
            entry = entry_of_checkpoint(settings)
            return open_checkpoint(entry, load_entry(settings, entry) if is_shared else None)
        load = partial(load_entry, settings) if is_shared else None
        self._rollout = rollout = open_rollout(settings.models, settings, load)
        return Opened(rollout.catalogue, rollout.loaded, rollout.commit)

    def _lacks_workers(self) -> bool:
        missing = len(self._workers) < self._settings.workers
        return missing and not self._stopping and time.monotonic() >= self._next_start

    def _check_workers(self) -> None:
        """Wait until a worker ends or reports, or for half a second; drop those that have ended, kill those stuck."""
        reports = self._rollout.workers if self._rollout else []
        ready = wait([self._woken, *reports, *(worker.process.sentinel for worker in self._workers)], timeout=0.5)
        if self._woken in ready:
            self._woken.recv_bytes()
        if self._rollout:
            self._rollout.turn(ready)
        if len(self._workers) == self._settings.workers and all(worker.has_served for worker in self._workers):
            self._all_served = True
            self._restart_delay = MIN_RESTART_DELAY_S
        for worker in list(self._workers):
            process = worker.process
            if worker.is_stuck:
                logger.error("Worker %s has not responded for %s s.", process.pid, STUCK_AFTER_S)
                process.kill()
                process.join()
            if process.is_alive():
                continue
            self._workers.remove(worker)
            if self._rollout:
                self._rollout.remove(worker.changes)
            if process.exitcode == START_FAILED and not self._all_served:
                self._status = START_FAILED
                self._stop()
            elif not self._stopping:
                self._schedule_replacement(worker)

    def _schedule_replacement(self, worker: Worker) -> None:
        """Log the end of a worker; its replacement starts at once if it has served, otherwise after a delay."""
        process = worker.process
        if worker.has_served:
            logger.error("Worker %s ended with status %s; a new one starts.", process.pid, process.exitcode)
            return
        logger.error(
            "Worker %s could not start, status %s; the next one tries in %s s.",
            *(process.pid, process.exitcode, self._restart_delay),
        )
        self._next_start = time.monotonic() + self._restart_delay
        self._restart_delay = min(2 * self._restart_delay, MAX_RESTART_DELAY_S)

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        heartbeat = context.RawValue(ctypes.c_double, time.monotonic() + START_LIMIT_S)
        slot = min(set(range(self._settings.workers)) - {worker.slot for worker in self._workers})
        ours, theirs = context.Pipe()
        opened = self._opened
        if rollout := self._rollout:
            opened = replace(opened, catalogue=rollout.catalogue, loaded=rollout.loaded, changes=theirs)
        arguments = (self._settings, opened, self._snapshots, slot, self._listener, heartbeat, self._all_stop)
        worker = Worker(slot, context.Process(target=_work, args=arguments), heartbeat, ours)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # the worker unblocks them once it can handle them
        if not self._stopping:  # a stop before this has reached only the other workers
            worker.process.start()
            self._workers.append(worker)
            if rollout:
                rollout.add(ours)
        theirs.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def _handle_stop(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal; a second one stops at once."""
        if self._stopping:
            for worker in self._workers:
                worker.process.kill()
        else:
            self._stop()

    def _handle_look(self, rollout: Rollout, sig: int, frame: FrameType | None) -> None:
        """Look at the folder of models now."""
        rollout.look_soon()
        self._wake.send_bytes(b"look")

    def _stop(self) -> None:
        self._stopping = True
        self._all_stop.value = True
        for worker in self._workers:
            worker.process.terminate()


def _work(
    settings: Settings,
    opened: Opened,
    snapshots: SharedSnapshots,
    slot: int,
    listener: socket,
    heartbeat: ctypes.c_double,
    all_stop: ctypes.c_bool,
) -> None:
    parent = os.getppid()

    def beat() -> None:
        nonlocal parent
        heartbeat.value = time.monotonic()
        if os.getppid() != parent:  # the supervisor was killed: nothing would stop this worker
            parent = os.getppid()
            all_stop.value = True
            signal.raise_signal(signal.SIGTERM)

    for stop in STOPS:
        signal.signal(stop, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor looks for new models
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    server = Server(
        settings,
        lambda: opened,
        Metrics(snapshots, slot),
        beat,
        has_supervisor=True,
        all_stop=lambda: all_stop.value,
    )
    sys.exit(server.serve_forever(listener))
