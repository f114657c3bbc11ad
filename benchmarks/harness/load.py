"""Requests to a server on this machine: one at a time, or by wrk, with one thread on the core of this process."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from benchmarks.harness.processes import ROOT, ProcessTree, launched

SCRIPT = Path(__file__).with_name("load.lua")
START_LIMIT_S = 180
TIMEOUT_S = 60
WRK_TIMEOUT_S = 20
LATENT = (0.1, -0.2, 0.3)


@dataclass(frozen=True)
class Call:
    """A request; for wrk a `%d` in its path stands for the number of the request."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


_digit = ((ROOT / "docs" / "seven.png").read_bytes(), {"Content-Type": "image/png"})
CALLS = {
    "decode": Call("POST", "/decode", json.dumps({"z": LATENT}).encode(), {"Content-Type": "application/json"}),
    "encode": Call("POST", "/encode", *_digit),
    "reconstruct": Call("POST", "/reconstruct", *_digit),
    "sample": Call("GET", "/sample?seed=%d"),
    "livez": Call("GET", "/livez"),
    "readyz": Call("GET", "/readyz"),
}


def connect(port: int) -> HTTPConnection:
    """A connection that is kept, opened by its first request."""
    return HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)


def ask(connection: HTTPConnection, call: Call) -> bytes:
    """Send a request and return the body of its answer; raises RuntimeError unless its status is 200."""
    connection.request(call.method, call.path, call.body or None, call.headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{call.path} was answered with {response.status}: {body[:200]!r}")
    return body


def wait_until_ready(port: int, ready: Call, interval: float = 0.1, check: Callable[[], None] | None = None) -> None:
    """Ask for `ready` every `interval` seconds until its status is 200.

    Raises RuntimeError after START_LIMIT_S, and what `check` raises before each request.
    """
    give_up = time.monotonic() + START_LIMIT_S
    while True:
        if check:
            check()
        connection = connect(port)
        try:
            ask(connection, ready)
        except (OSError, HTTPException, RuntimeError) as error:
            if time.monotonic() > give_up:
                raise RuntimeError(f"{ready.path} had no answer of status 200 within {START_LIMIT_S} s.") from error
        else:
            return
        finally:
            connection.close()
        time.sleep(interval)


@contextmanager
def serving(
    command: Sequence[str], core: int | None = None, ready: Call = CALLS["readyz"], interval: float = 0.1
) -> Iterator[tuple[ProcessTree, int]]:
    """Start a server, with its port for `{port}` in `command`; yield it and the port once it answers `ready`.

    Raises RuntimeError, with the end of its log, where it ends before.
    """
    port = free_port()
    with launched([argument.replace("{port}", str(port)) for argument in command], core) as tree:
        wait_until_ready(port, ready, interval, tree.check)
        yield tree, port


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@dataclass(frozen=True)
class Load:
    """The result of a run of wrk; `errors` are broken connections, timeouts and answers of 400 and above."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def load(port: int, call: Call, connections: int, seconds: int) -> Load:
    """Send `call` over and over on each of the connections; raises RuntimeError where wrk fails."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(call.body)
        body.flush()
        flags = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={WRK_TIMEOUT_S}s", f"-s{SCRIPT}"]
        url = f"http://127.0.0.1:{port}{call.path}"
        headers = [shard for header in call.headers.items() for shard in header]
        arguments = [call.method, body.name if call.body else "", *headers]
        wrk = subprocess.run(["wrk", *flags, url, "--", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if wrk.returncode:
        raise RuntimeError(f"wrk ended with status {wrk.returncode}: {wrk.stdout}")
    return parse(wrk.stdout)


def parse(output: str) -> Load:
    """What load.lua has printed: the last line."""
    return Load(**json.loads(output.strip().rpartition("\n")[2]))


def wrk_version() -> str:
    """As wrk prints it."""
    printed = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout
    number = re.search(r"\d+(\.\d+)+", printed)
    return number[0] if number else "of unknown version"
