"""From exec to ready, against what it takes to import torch."""

from __future__ import annotations

import sys
import time

from benchmarks.calls import CALLS
from benchmarks.client import free_port, wait_until_answered
from benchmarks.contender import CONTENDERS
from benchmarks.pinned import pinned

POLL_S = 0.002


def measure(core: int, times: int) -> dict[str, list[float]]:
    """Seconds of both, in turn."""
    seconds: dict[str, list[float]] = {"import_torch": [], "ready": []}
    for _ in range(times):
        seconds["import_torch"].append(_import_torch(core))
        seconds["ready"].append(_ready(core))
    return seconds


def _import_torch(core: int) -> float:
    start = time.perf_counter()
    with pinned([sys.executable, "-c", "import torch"], core) as process:
        process.main.wait()
        return time.perf_counter() - start


def _ready(core: int) -> float:
    port = free_port()
    start = time.perf_counter()
    with pinned(CONTENDERS["ours"].start_command(port), core) as process:
        wait_until_answered(process, port, CALLS["readyz"], POLL_S)
        return time.perf_counter() - start
