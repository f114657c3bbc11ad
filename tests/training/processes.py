"""Processes for tests that kill, signal or launch one, without the time of importing torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
"""Forks from one process that has imported torch; pytest's own has started threads, which a fork does not copy."""
CONTEXT.set_forkserver_preload(["pytest", "training.encode.command", "training.fitting.fit"])
LIMIT_S = 120
"""Seconds after which a process ends itself, even if pytest was killed meanwhile."""


@contextmanager
def start(log: Path, function: Callable[..., object], *arguments: object) -> Iterator[BaseProcess]:
    """Run `function`, whose result is the exit status; its output goes to `log`. Kill the process at the end."""
    process = CONTEXT.Process(target=_run, args=(log, function, arguments))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def run(log: Path, function: Callable[..., object], *arguments: object) -> int | None:
    """Run `function` in a process of its own and return the exit status, or minus the signal that ended it."""
    with start(log, function, *arguments) as process:
        process.join()
        return process.exitcode


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait at most a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _run(log: Path, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    signal.alarm(LIMIT_S)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method(None, force=True)  # CONTEXT's own is not the default of vae-train
    sys.exit(function(*arguments))  # type: ignore[arg-type]
