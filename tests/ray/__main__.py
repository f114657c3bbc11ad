"""Tests the service with Ray Serve on a cluster of two node processes, in ten minutes.

    python -m tests.ray

The exit status is 1 if a check fails.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from tests.ray.clients import Case, cases, load
from tests.ray.cluster import DASHBOARD, HEAD_PROXY, HOST, ROOT, Cluster, cluster, wait_until

DIGITS = Path(__file__).parents[1] / "data" / "digits.npz"
LOAD_S = 5
"""Seconds of load before and after each event."""


class Report:
    """Prints the checks, and records whether one failed."""

    def __init__(self) -> None:
        self.failed = False
        self._start = time.monotonic()

    def print(self, line: str) -> None:
        """Print a line."""
        print(f"{time.monotonic() - self._start:5.0f} s  {line}", flush=True)

    def check(self, holds: bool, what: str) -> None:
        """Print a check and its result."""
        self.failed |= not holds
        self.print(f"  {'ok    ' if holds else 'FAILED'} {what}")

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print a title; an exception in the step is a failed check."""
        self.print(title)
        try:
            yield
        except Exception as error:
            self.check(False, f"{type(error).__name__}: {error}")


def main() -> int:
    """Run all steps; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))  # so that the cluster is stopped too
    report = Report()
    with np.load(DIGITS) as sample:
        requests = cases(sample["images"][:12])
    with cluster(nodes=2) as ray:
        report.print("Two nodes are up.")
        with report.step("Two replicas"):
            ray.deploy(replicas=2)
            ray.wait_for(2)
            spread(ray, requests, report)
        for step in (contract, admin, kill, roll_out, autoscale, wrong_checkpoint, full_queue):
            with report.step((step.__doc__ or "").strip(".")):
                step(ray, requests, report)
    return int(report.failed)


def spread(ray: Cluster, requests: list[Case], report: Report) -> None:
    """Requests spread over the replicas of both nodes."""
    for url in ray.services:
        before = {pid: ray.handled(pid, "POST /decode") for pid in ray.replicas()}
        with load((url,), requests, 16) as results:
            time.sleep(10)
        time.sleep(1)  # the access log is written a few times per second
        shares = [ray.handled(pid, "POST /decode") - count for pid, count in before.items()]
        report.print(f"  16 clients of {url}: {results.report()}")
        report.check(results.outcomes.keys() == {"right"}, "every response is that of the service, byte for byte")
        # a replica on a busy core gets fewer
        report.check(min(shares) > sum(shares) / 10, f"the replicas handled {shares} of /decode")
    report.check(len(set(ray.replicas().values())) == 2, "each replica is on a node of its own")


def contract(ray: Cluster, requests: list[Case], report: Report) -> None:
    """The service's tests."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "tests/service"]
    environment = {**os.environ, "SERVICE_URL": ray.services[-1]}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    *lines, summary = done.stdout.splitlines()
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            report.print(f"    {line}")
    report.check(done.returncode == 0, f"SERVICE_URL={ray.services[-1]} pytest tests/service: {summary}")


def admin(ray: Cluster, requests: list[Case], report: Report) -> None:
    """Ray's own API."""
    status = httpx.get(f"http://{HOST}:{DASHBOARD}/api/serve/applications/").status_code
    report.check(status == 401, f"without the token the dashboard responds with {status}")


def kill(ray: Cluster, requests: list[Case], report: Report) -> None:
    """A replica is killed."""
    before = ray.replicas()
    victim = min(before)
    with load(ray.services, requests, 8) as results:
        time.sleep(LOAD_S)
        os.kill(victim, signal.SIGKILL)
        seconds = _seconds_until(lambda: victim not in ray.replicas() and len(ray.replicas()) == 2)
        time.sleep(LOAD_S)
    report.print(f"  {results.report()}")
    report.check(results.wrong == 0, "no response is wrong")
    report.check(victim not in ray.replicas(), f"the replica is replaced after {seconds:.1f} s")


def roll_out(ray: Cluster, requests: list[Case], report: Report) -> None:
    """A change is rolled out under load, through the head's proxy: others stop with the last replica of their node."""
    before = ray.replicas()
    with load(ray.services[:1], requests, 8) as results:
        time.sleep(LOAD_S)
        ray.deploy(replicas=2, torch_threads=1)
        seconds = _seconds_until(lambda: len(ray.replicas()) == 2 and not before.keys() & ray.replicas().keys())
        time.sleep(LOAD_S)
    report.print(f"  {results.report()}")
    report.check(results.outcomes.keys() == {"right"}, f"no request is lost, {seconds:.1f} s")


def autoscale(ray: Cluster, requests: list[Case], report: Report) -> None:
    """Replicas are started and stopped with the load."""
    scaling = {"max_replicas": 2, "upscale_delay_s": 2, "downscale_delay_s": 5, "look_back_period_s": 11}
    ray.deploy(scaling=scaling, torch_threads=1)
    ray.wait_for(1)
    report.print("  one replica, without load")
    with load(ray.services[:1], requests, 32) as results:
        up = _seconds_until(lambda: len(ray.replicas()) == 2)
        time.sleep(LOAD_S)
    report.print(f"  32 clients: {results.report()}")
    with load(ray.services[:1], requests, 2) as few:
        down = _seconds_until(lambda: len(ray.replicas()) == 1)
        time.sleep(LOAD_S)
    report.print(f"   2 clients: {few.report()}")
    report.check(True, f"up from 1 to 2 after {up:.1f} s of load, down after {down:.1f} s of low load")
    wait_until(lambda: _is_stopping(ray.services[1]))
    report.check(True, "the proxy of the node without a replica is unhealthy")
    report.check(results.outcomes.keys() == few.outcomes.keys() == {"right"}, "no request is lost")


def wrong_checkpoint(ray: Cluster, requests: list[Case], report: Report) -> None:
    """An invalid checkpoint is rolled out."""
    ray.deploy(replicas=1, checkpoint=DIGITS)
    wait_until(lambda: ray.application()["status"] == "DEPLOY_FAILED")
    why = next(line for line in reversed(ray.application()["message"].splitlines()) if "StartError" in line)
    report.print(f"  {why.strip()}")
    with load(ray.services[:1], requests, 2) as results:
        time.sleep(LOAD_S)
    report.check(results.outcomes.keys() == {"right"}, f"the old replica keeps serving: {results.report()}")


def full_queue(ray: Cluster, requests: list[Case], report: Report) -> None:
    """A queue limit of one request, and a deadline of half a second."""
    ray.deploy(replicas=1, queue_limit=1, request_deadline=0.5)
    ray.wait_for(1)
    with load(ray.services[:1], requests, 32) as results:
        time.sleep(8)
    report.print(f"  {results.report()}")
    report.check(results.wrong == 0, "every error is a problem document: 503 with Retry-After, or 504")
    report.check(any("All 1 places" in outcome for outcome in results.outcomes), "some are those of the service")
    with socket.create_connection((HOST, HEAD_PROXY), timeout=10) as client:
        client.sendall(b"POST /encode HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 9\r\n\r\n[")
        line = client.recv(65536).partition(b"\r\n")[0].decode()
    report.check(" 504 " in line, f"a body that does not arrive gets {line}")


def _is_stopping(service: str) -> bool:
    """Whether the proxy is unhealthy, as without a replica, or has exited."""
    try:
        return httpx.get(f"{service}/-/healthz").status_code == 503
    except httpx.ConnectError:
        return True


def _seconds_until(condition: Callable[[], bool]) -> float:
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > 120:
            raise TimeoutError("The condition was not met within 120 s.")
        time.sleep(0.2)
    return time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
