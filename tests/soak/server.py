"""vae-serve with two workers on its own core, and measurements of it from outside."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psutil

from benchmarks.harness.processes import ProcessTree, launched
from tests.live import START_LIMIT_S, free_port
from tests.soak.client import OTHER_HTTP

WORKERS = 2
GIVES_BACK_AFTER_S = 3
"""The service gives free memory back when it has been idle for two."""
SETTLING_LIMIT_S = 10
STARTED = b"Application startup complete."
FAILURE = re.compile(rb" (5\d\d), \d+ bytes in ")
"""Status of a failure in a line of the access log."""
LOG_LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) +\S")
ESTABLISHED = "01"
"""State of a connection in /proc/net/tcp."""


@dataclass(frozen=True)
class Resources:
    """Memory and descriptors of all processes of the service."""

    rss_mb: float
    descriptors: int


@dataclass(frozen=True)
class Server:
    """A running service."""

    pinned: ProcessTree
    port: int

    @property
    def supervisor(self) -> int:
        """Its process id."""
        return self.pinned.main.pid

    def workers(self) -> set[int]:
        """Process ids of the workers, which have the supervisor's command line, as they were forked."""
        command = _command(self.supervisor)
        return {
            each.pid
            for each in self.pinned.processes()
            if each.pid != self.supervisor and _command(each.pid) == command
        }

    def resources(self) -> Resources:
        """Resident set sizes summed up, MB of 10⁶ bytes, shared pages counted in each; open descriptors."""
        memory = descriptors = 0
        for process in self.pinned.processes():
            with suppress(psutil.NoSuchProcess):  # it has ended
                memory += process.memory_info().rss
                descriptors += process.num_fds()
        return Resources(memory / 1e6, descriptors)

    async def settled(self, before: Resources | None = None) -> Resources:
        """As `held`, once closed connections are gone: as many descriptors as `before`, or no change."""
        await asyncio.sleep(GIVES_BACK_AFTER_S)
        now = self.resources()
        for _ in range(SETTLING_LIMIT_S):
            last = now
            await asyncio.sleep(1)
            now = self.resources()
            if now.descriptors <= (before or last).descriptors:
                break
        return now

    def servers_of(self, ports: Collection[int]) -> dict[int, int]:
        """Process ids of the workers that serve connections, by the client's port."""
        expected = {f"{port:04X}": port for port in ports}
        own = f":{self.port:04X}"
        sockets: dict[str, int] = {}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, state, *_, inode = line.split()[:10]
            if local.endswith(own) and state == ESTABLISHED and remote[-4:] in expected:
                sockets[f"socket:[{inode}]"] = expected[remote[-4:]]
        return {sockets[name]: pid for pid in self.workers() for name in _descriptors(pid) if name in sockets}

    def failures(self) -> list[int]:
        """Statuses of 500 and above in the access log."""
        with self.pinned.log_file.open("rb") as log:
            statuses = [int(found[1]) for line in log if (found := FAILURE.search(line))]
        return [status for status in statuses if status not in OTHER_HTTP]

    def tracebacks(self) -> int:
        """Number of tracebacks in the log."""
        with self.pinned.log_file.open("rb") as log:
            return sum(line.startswith(b"Traceback") for line in log)


def foreign_lines(log_file: Path) -> list[str]:
    """The first thousand lines of standard error that are not log records, such as tracebacks."""
    with log_file.open("rb") as log:
        lines = (line for line in log if not LOG_LINE.match(line))
        return [line.decode(errors="replace").rstrip() for line in islice(lines, 1000)]


@asynccontextmanager
async def serving(
    core: int, *flags: str, descriptors: int | None = None, module: str = "service"
) -> AsyncIterator[Server]:
    """Start the service with `flags` and a limit of open `descriptors`; wait until all workers serve."""
    port = free_port()
    command = [sys.executable, "-m", module, "--port", str(port), "--workers", str(WORKERS), *flags]
    if descriptors:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    with launched(command, core) as tree:
        give_up = time.monotonic() + START_LIMIT_S
        while tree.log_file.read_bytes().count(STARTED) < WORKERS:
            tree.check()
            if time.monotonic() > give_up:
                log = tree.log_file.read_text()[-2000:]
                raise RuntimeError(f"vae-serve was not ready within {START_LIMIT_S} s. Its log: {log}")
            await asyncio.sleep(0.02)
        yield Server(tree, port)


def _command(pid: int) -> list[str]:
    """The command line of a process; empty if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).cmdline()
    return []


def _descriptors(pid: int) -> list[str]:
    """Targets of the open descriptors of a process."""
    names = []
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed in the meantime
                names.append(str(link.readlink()))
    return names
