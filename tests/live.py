"""`vae-serve` in a process of its own. `tests.service.running` runs the service in this process, which is faster."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
START_LIMIT_S = 60
SERVICE = ("-m", "service")
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""httpx would load the system's certificates for each request, in 20 ms of processor time."""


@dataclass(frozen=True)
class LiveServer:
    """A running `vae-serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def log(self) -> str:
        """Its standard error so far."""
        return self.log_file.read_text()

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers, verify=NO_CERTIFICATES)


def start(
    *flags: str, environment: Mapping[str, str] | None = None, log_file: Path, program: Sequence[str] = SERVICE
) -> LiveServer:
    """Start `vae-serve` with `flags` on a free port, without waiting until it is ready.

    `program` replaces the Python arguments that run the service, to inject a fault.
    """
    port = free_port()
    command = [sys.executable, *program, "--port", str(port), *flags]
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stderr=log, cwd=ROOT)
    return LiveServer(process, port, log_file)


@contextmanager
def live_server(
    *flags: str, environment: Mapping[str, str] | None = None, program: Sequence[str] = SERVICE
) -> Iterator[LiveServer]:
    """Start `vae-serve` with `flags` on a free port, wait until it is ready, and stop it afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        server = start(*flags, environment=environment, log_file=Path(folder) / "log", program=program)
        try:
            _wait_until_ready(server)
            yield server
        finally:
            server.process.terminate()
            server.process.wait(START_LIMIT_S)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait_until_ready(server: LiveServer) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"vae-serve exited with status {server.process.returncode} before it was ready.")
        try:
            if server.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise RuntimeError(f"vae-serve was not ready within {START_LIMIT_S} s.")
