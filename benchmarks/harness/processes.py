"""Start a command, pinned to a core or not; measure its processes from outside; stop them all."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
MARK = "BENCHMARK_MARK"
"""Environment variable by which the processes of a tree are found, daemons that have left it too."""
STOP_LIMIT_S = 10
SAMPLE_S = 0.01
LOG_TAIL = 2000


@dataclass(frozen=True)
class ProcessTree:
    """A process and its descendants."""

    main: subprocess.Popen[bytes]
    mark: str
    log_file: Path

    def processes(self) -> list[psutil.Process]:
        """All that live."""
        every = psutil.process_iter(["environ"])
        return [process for process in every if (process.info["environ"] or {}).get(MARK) == self.mark]

    def cpu_seconds(self) -> float:
        """User and system time of those that live."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(each.user + each.system for each in times)

    def memory_mb(self) -> list[float]:
        """Proportional set size of each process, MB of 10⁶ bytes: a page that n processes share counts 1/n in each."""
        return [process.memory_full_info().pss / 1e6 for process in self.processes()]

    def check(self) -> None:
        """Raise RuntimeError, with the end of its log, if the main process has ended."""
        if self.main.poll() is not None:
            log = self.log_file.read_text(errors="replace")[-LOG_TAIL:]
            raise RuntimeError(f"{self.main.args!r} ended with status {self.main.returncode}:\n{log}")

    def stop(self) -> None:
        """Send SIGTERM to the main process, then SIGKILL to all that are left after STOP_LIMIT_S."""
        self.main.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.main.wait(STOP_LIMIT_S)
        while left := self.processes():
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.main.poll()
            time.sleep(0.05)


@contextmanager
def launched(command: Sequence[str], core: int | None = None) -> Iterator[ProcessTree]:
    """Run `command` on `core`, or on any; its home is a temporary folder, its output a log file.

    This process's settings of the service, VAE_*, are not passed on.
    """
    mark = uuid.uuid4().hex
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VAE_")}
    pinning = [] if core is None else ["taskset", "--cpu-list", str(core)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        log_file = Path(home) / "log"
        with log_file.open("wb") as log:
            main = subprocess.Popen(
                [*pinning, *command],
                env={**inherited, "HOME": home, "PYTHONPATH": str(ROOT), MARK: mark},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        tree = ProcessTree(main, mark, log_file)
        try:
            yield tree
        finally:
            tree.stop()


def sampled_rss_mb(pid: int) -> AbstractContextManager[list[float]]:
    """As `sampled`, with the resident set size of a process in MB."""
    process = psutil.Process(pid)
    return sampled(lambda: process.memory_info().rss / 1e6)


@contextmanager
def sampled(measure: Callable[[], float]) -> Iterator[list[float]]:
    """Yield a list; add to it what `measure` returns, at once and then every SAMPLE_S seconds."""
    samples = [measure()]
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_S):
            with suppress(psutil.NoSuchProcess):
                samples.append(measure())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
