"""wrk, the load generator: one thread, on the core of this process."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.calls import Call

SCRIPT = Path(__file__).with_name("load.lua")
TIMEOUT_S = 20


@dataclass(frozen=True)
class Load:
    """What a run of wrk measured; `errors` are broken connections, timeouts and answers of 400 and above."""

    connections: int
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def run(port: int, call: Call, connections: int, seconds: int) -> Load:
    """Send `call` over and over on each of the connections."""
    with running(port, call, connections, seconds) as process:
        return finish(process, connections)


@contextmanager
def running(port: int, call: Call, connections: int, seconds: int) -> Iterator[subprocess.Popen[str]]:
    """The same, while something else is being done."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(call.body)
        body.flush()
        flags = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s", f"-s{SCRIPT}"]
        url = f"http://127.0.0.1:{port}{call.path}"
        arguments = [call.method, call.content_type, body.name if call.body else ""]
        with subprocess.Popen(["wrk", *flags, url, "--", *arguments], stdout=subprocess.PIPE, text=True) as process:
            yield process


def finish(process: subprocess.Popen[str], connections: int) -> Load:
    """Wait for its end."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"wrk ended with status {process.returncode}: {output}")
    return parse(output, connections)


def parse(output: str, connections: int) -> Load:
    """What load.lua has printed: the last line."""
    return Load(connections=connections, **json.loads(output.strip().rpartition("\n")[2]))


def version() -> str:
    """As wrk tells it."""
    told = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout
    number = re.search(r"\d+(\.\d+)+", told)
    return number[0] if number else "of unknown version"
