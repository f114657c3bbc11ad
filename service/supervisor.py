"""Several workers on one port: started together, replaced when one dies, stopped together."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import signal
import sys
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from socket import socket
from types import FrameType

import torch

from service.app import StartError, load_checkpoint
from service.server import Server
from service.settings import Settings
from vae.checkpoint import Checkpoint

logger = logging.getLogger("vae-service")

START_FAILED = 2
STOPS = (signal.SIGINT, signal.SIGTERM)


class Supervisor:
    """Holds `settings.workers` processes. They are forked, so that they share what torch and the checkpoint take.

    A GPU cannot be taken through a fork; there each worker loads the checkpoint for itself.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = False
        self._status = 0
        self._workers: list[BaseProcess] = []

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
            wait([worker.sentinel for worker in self._workers], timeout=0.5)
            for worker in [worker for worker in self._workers if not worker.is_alive()]:
                self._workers.remove(worker)
                if worker.exitcode == START_FAILED:
                    self._status = START_FAILED
                    self._stop(signal.SIGTERM, None)
                elif not self._stopping:
                    logger.error("Worker %s ended with status %s; a new one starts.", worker.pid, worker.exitcode)
        for worker in self._workers:
            worker.join()
        return self._status

    def _start(self, listener: socket) -> None:
        worker = multiprocessing.get_context("fork").Process(
            target=_work, args=(self._settings, self._checkpoint, listener)
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # a stop reaches the worker once it can tell one
        worker.start()
        self._workers.append(worker)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def _stop(self, sig: int, frame: FrameType | None) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.terminate()


def _work(settings: Settings, checkpoint: Checkpoint | None, listener: socket) -> None:
    for stop in STOPS:
        signal.signal(stop, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    sys.exit(Server(settings, checkpoint).serve_forever([listener]))
