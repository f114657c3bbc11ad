"""What workers take: memory and processor time."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Any

from benchmarks import wrk
from benchmarks.calls import CALLS
from benchmarks.client import START_LIMIT_S, free_port, wait_until_answered
from benchmarks.contender import CONTENDERS
from benchmarks.pinned import pinned

COUNTS = (1, 2)
CONNECTIONS = 32
"""For each worker: it then has batches of the same size, however many there are."""
WARM_UP_S = 2


def measure(core: int, seconds: int) -> dict[str, Any]:
    """For each number of workers memory after the load, MB a process, and processor seconds per 1,000 requests."""
    return {"torch_mb": _torch_mb(core), **{str(count): _workers(count, core, seconds) for count in COUNTS}}


def _torch_mb(core: int) -> float:
    """A process that has imported torch and nothing else."""
    with pinned([sys.executable, "-uc", "import torch, time; print('ready'); time.sleep(999)"], core) as process:
        give_up = time.monotonic() + START_LIMIT_S
        while "ready" not in process.log_file.read_text() and time.monotonic() < give_up:
            process.check()
            time.sleep(0.05)
        (memory,) = process.memory_mb()
    return memory


def _workers(count: int, core: int, seconds: int) -> dict[str, Any]:
    port = free_port()
    with pinned([*CONTENDERS["ours"].start_command(port), "--workers", str(count)], core) as process:
        wait_until_answered(process, port, CALLS["decode"])
        wrk.run(port, CALLS["decode"], count * CONNECTIONS, WARM_UP_S)
        before = process.cpu_seconds()
        load = wrk.run(port, CALLS["decode"], count * CONNECTIONS, seconds)
        spent = process.cpu_seconds() - before
        memory = process.memory_mb()
    return {"memory_mb": memory, "cpu_seconds_per_1000": 1000 * spent / load.requests, "load": asdict(load)}
