"""A server with all its processes on a core of its own: started, watched, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
MARK = "BENCHMARK_MARK"
STOP_LIMIT_S = 10
LOG_TAIL = 2000


@dataclass(frozen=True)
class Pinned:
    """A process and whatever it has started, all known by a mark in their environment."""

    main: subprocess.Popen[bytes]
    mark: str
    log_file: Path

    def pids(self) -> list[int]:
        """All its processes, daemons too."""
        entry = f"{MARK}={self.mark}".encode()
        return sorted(int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if entry in _read(path))

    def cpu_seconds(self) -> float:
        """User and system time of those that live."""
        ticks = 0
        for pid in self.pids():
            fields = _read(Path(f"/proc/{pid}/stat")).rpartition(b") ")[2].split()
            ticks += sum(map(int, fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> list[float]:
        """Proportional set size of each process, MB: a page that n processes share counts 1/n in each."""
        return [read_pss_mb(_read(Path(f"/proc/{pid}/smaps_rollup")).decode()) for pid in self.pids()]

    def check(self) -> None:
        """Raise RuntimeError, with the end of its log, where it has ended."""
        if self.main.poll() is not None:
            log = self.log_file.read_text(errors="replace")[-LOG_TAIL:]
            raise RuntimeError(f"{self.main.args!r} ended with status {self.main.returncode}:\n{log}")

    def stop(self) -> None:
        """Ask, then insist."""
        self.main.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.main.wait(STOP_LIMIT_S)
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.main.poll()
            time.sleep(0.05)


@contextmanager
def pinned(command: Sequence[str], core: int, environment: Mapping[str, str] | None = None) -> Iterator[Pinned]:
    """`command` on `core`, in a home of its own, without this service's settings; what it prints goes to a file."""
    mark = uuid.uuid4().hex
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VAE_")}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        log_file = Path(home) / "log"
        own = {"HOME": home, "PYTHONPATH": str(ROOT), MARK: mark, **(environment or {})}
        with log_file.open("wb") as log:
            main = subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *command],
                env={**inherited, **own},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        process = Pinned(main, mark, log_file)
        try:
            yield process
        finally:
            process.stop()


def output_of(command: Sequence[str], core: int) -> str:
    """What `command` prints until it ends."""
    with pinned(command, core) as process:
        if process.main.wait():
            process.check()
        return process.log_file.read_text()


def read_pss_mb(smaps_rollup: str) -> float:
    """The line `Pss:  123 kB` in MB of 10⁶ bytes."""
    (kib,) = (line.split()[1] for line in smaps_rollup.splitlines() if line.startswith("Pss:"))
    return int(kib) * 1024 / 1e6


def _read(path: Path) -> bytes:
    """Nothing where the process has just ended, or is another user's."""
    try:
        return path.read_bytes()
    except (OSError, ProcessLookupError):
        return b""
