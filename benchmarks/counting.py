"""What counting for /metrics costs: the same service with and without it, in turn."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks import wrk
from benchmarks.calls import CALLS
from benchmarks.client import free_port, wait_until_answered
from benchmarks.contender import CONTENDERS
from benchmarks.pinned import pinned

CONNECTIONS = 32
WARM_UP_S = 1
TURNS = 5


def measure(core: int, seconds: int) -> dict[str, Any]:
    """Requests per second of each turn, `counted` and `uncounted`."""
    ports = {"counted": free_port(), "uncounted": free_port()}
    counted = CONTENDERS["ours"].start_command(ports["counted"])
    uncounted = [sys.executable, "-m", "benchmarks.uncounted_server", "--port", str(ports["uncounted"])]
    rates: dict[str, list[float]] = {name: [] for name in ports}
    with pinned(counted, core) as one, pinned(uncounted, core) as other:
        for process, port in zip((one, other), ports.values(), strict=True):
            wait_until_answered(process, port, CALLS["decode"])
            wrk.run(port, CALLS["decode"], CONNECTIONS, WARM_UP_S)
        for _ in range(TURNS):
            for name, port in ports.items():
                load = wrk.run(port, CALLS["decode"], CONNECTIONS, seconds)
                rates[name].append(load.requests / load.seconds)
    return rates
