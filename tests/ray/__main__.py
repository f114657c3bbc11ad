"""What Ray Serve does with the service, seen on a cluster of two node processes, in ten minutes.

    python -m tests.ray

Exit status 1 where something is not as it should be.
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

from tests.ray.callers import Question, calling, questions
from tests.ray.cluster import DASHBOARD, HEAD_PROXY, HOST, ROOT, Cluster, cluster, wait_until

DIGITS = Path(__file__).parents[1] / "data" / "digits.npz"
AFTER_S = 5
"""For which callers go on after something has happened."""


class Report:
    """Lines of the report, and whether all is well."""

    def __init__(self) -> None:
        self.failed = False
        self._lock_output = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line."""
        print(f"{time.monotonic() - self._lock_output:5.0f} s  {line}", flush=True)

    def check(self, holds: bool, what: str) -> None:
        """Print what was checked, and how it went."""
        self.failed |= not holds
        self.say(f"  {'ok    ' if holds else 'FAILED'} {what}")

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print a title; a step that breaks off has failed."""
        self.say(title)
        try:
            yield
        except Exception as error:
            self.check(False, f"{type(error).__name__}: {error}")


def main() -> int:
    """Run all; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))  # not without the cluster
    report = Report()
    with np.load(DIGITS) as sample:
        asked = questions(sample["images"][:12])
    with cluster(nodes=2) as ray:
        report.say("Two nodes are up.")
        with report.step("Two replicas"):
            ray.deploy(replicas=2)
            ray.wait_for(2)
            spread(ray, asked, report)
        for step in (contract, admin, kill, roll_out, autoscale, wrong_checkpoint, full_queue):
            with report.step((step.__doc__ or "").strip(".")):
                step(ray, asked, report)
    return int(report.failed)


def spread(ray: Cluster, asked: list[Question], report: Report) -> None:
    """Requests spread over the replicas of both nodes."""
    for url in ray.services:
        before = {pid: ray.answered(pid, "POST /decode") for pid in ray.replicas()}
        with calling((url,), asked, 16) as callers:
            time.sleep(10)
        time.sleep(1)  # access logs are written some times a second
        shares = [ray.answered(pid, "POST /decode") - count for pid, count in before.items()]
        report.say(f"  16 callers of {url}: {callers.report()}")
        report.check(callers.outcomes.keys() == {"right"}, "every answer is the service's own, byte for byte")
        # the replica on a busy core is given less
        report.check(min(shares) > sum(shares) / 10, f"of /decode the replicas answered {shares}")
    report.check(len(set(ray.replicas().values())) == 2, "each replica is on a node of its own")


def contract(ray: Cluster, asked: list[Question], report: Report) -> None:
    """The contract's tests."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "tests/service"]
    environment = {**os.environ, "SERVICE_URL": ray.services[-1]}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    *lines, summary = done.stdout.splitlines()
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            report.say(f"    {line}")
    report.check(done.returncode == 0, f"SERVICE_URL={ray.services[-1]} pytest tests/service: {summary}")


def admin(ray: Cluster, asked: list[Question], report: Report) -> None:
    """Ray's own API."""
    status = httpx.get(f"http://{HOST}:{DASHBOARD}/api/serve/applications/").status_code
    report.check(status == 401, f"without the token the dashboard answers {status}")


def kill(ray: Cluster, asked: list[Question], report: Report) -> None:
    """A replica is killed."""
    before = ray.replicas()
    victim = min(before)
    with calling(ray.services, asked, 8) as callers:
        time.sleep(AFTER_S)
        os.kill(victim, signal.SIGKILL)
        seconds = _seconds_until(lambda: victim not in ray.replicas() and len(ray.replicas()) == 2)
        time.sleep(AFTER_S)
    report.say(f"  {callers.report()}")
    report.check(callers.wrong == 0, "no answer is wrong")
    report.check(victim not in ray.replicas(), f"another replica has taken its place after {seconds:.1f} s")


def roll_out(ray: Cluster, asked: list[Question], report: Report) -> None:
    """A change is rolled out under load, through the proxy of the head: another goes with its node's last replica."""
    before = ray.replicas()
    with calling(ray.services[:1], asked, 8) as callers:
        time.sleep(AFTER_S)
        ray.deploy(replicas=2, torch_threads=1)
        seconds = _seconds_until(lambda: len(ray.replicas()) == 2 and not before.keys() & ray.replicas().keys())
        time.sleep(AFTER_S)
    report.say(f"  {callers.report()}")
    report.check(callers.outcomes.keys() == {"right"}, f"no request is lost on the way, {seconds:.1f} s")


def autoscale(ray: Cluster, asked: list[Question], report: Report) -> None:
    """Replicas come with the queue, and go with it."""
    scaling = {"max_replicas": 2, "upscale_delay_s": 2, "downscale_delay_s": 5, "look_back_period_s": 11}
    ray.deploy(scaling=scaling, torch_threads=1)
    ray.wait_for(1)
    report.say("  one replica, without load")
    with calling(ray.services[:1], asked, 32) as callers:
        up = _seconds_until(lambda: len(ray.replicas()) == 2)
        time.sleep(AFTER_S)
    report.say(f"  32 callers: {callers.report()}")
    with calling(ray.services[:1], asked, 2) as few:
        down = _seconds_until(lambda: len(ray.replicas()) == 1)
        time.sleep(AFTER_S)
    report.say(f"   2 callers: {few.report()}")
    report.check(True, f"up from 1 to 2 after {up:.1f} s of load, down after {down:.1f} s of little")
    wait_until(lambda: _lets_go(ray.services[1]))
    report.check(True, "the proxy of the node without a replica asks its load balancer to let go of it")
    report.check(callers.outcomes.keys() == few.outcomes.keys() == {"right"}, "no request is lost on the way")


def wrong_checkpoint(ray: Cluster, asked: list[Question], report: Report) -> None:
    """A checkpoint that is none is rolled out."""
    ray.deploy(replicas=1, checkpoint=DIGITS)
    wait_until(lambda: ray.application()["status"] == "DEPLOY_FAILED")
    why = next(line for line in reversed(ray.application()["message"].splitlines()) if "CheckpointError" in line)
    report.say(f"  {why.strip()}")
    with calling(ray.services[:1], asked, 2) as callers:
        time.sleep(AFTER_S)
    report.check(callers.outcomes.keys() == {"right"}, f"the replica that was there goes on: {callers.report()}")


def full_queue(ray: Cluster, asked: list[Question], report: Report) -> None:
    """Limits: one place in the queue, half a second for a request."""
    ray.deploy(replicas=1, queue_limit=1, request_deadline=0.5)
    ray.wait_for(1)
    with calling(ray.services[:1], asked, 32) as callers:
        time.sleep(8)
    report.say(f"  {callers.report()}")
    report.check(callers.wrong == 0, "every refusal is a problem document, and says when to come again or is late")
    report.check(any("All 1 places" in outcome for outcome in callers.outcomes), "the service's own is among them")
    with socket.create_connection((HOST, HEAD_PROXY), timeout=10) as caller:
        caller.sendall(b"POST /encode HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 9\r\n\r\n[")
        line = caller.recv(65536).partition(b"\r\n")[0].decode()
    report.check(" 504 " in line, f"a body that does not come is answered {line}")


def _lets_go(service: str) -> bool:
    """A proxy without a replica is unhealthy for a while, and then is no more."""
    try:
        return httpx.get(f"{service}/-/healthz").status_code == 503
    except httpx.ConnectError:
        return True


def _seconds_until(happened: Callable[[], bool]) -> float:
    begun = time.monotonic()
    while not happened():
        if time.monotonic() - begun > 120:
            raise TimeoutError("Nothing within 120 s.")
        time.sleep(0.2)
    return time.monotonic() - begun


if __name__ == "__main__":
    sys.exit(main())
