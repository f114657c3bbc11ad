"""A model that takes its time: how near throughput comes to whole batches, and whether the service still answers."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from benchmarks import wrk
from benchmarks.calls import CALLS
from benchmarks.client import free_port, wait_until_answered
from benchmarks.pinned import pinned

PASS_S = 0.05
BATCH = 64
CONNECTIONS = (64, 128)
WARM_UP_S = 1
LEAST_S = 5
"""A load is as long at least: in a second are twenty batches, and the first and the last of them are cut."""


def measure(core: int, seconds: int) -> dict[str, Any]:
    """Loads by connections; and, while each is sent once more, that of one that asks for /livez without end."""
    seconds = max(seconds, LEAST_S)
    port = free_port()
    flags = ["--port", str(port), "--micro-batch-limit", str(BATCH)]
    result: dict[str, Any] = {"best": BATCH / PASS_S}
    with pinned([sys.executable, "-m", "benchmarks.slow_server", str(PASS_S), *flags], core) as process:
        wait_until_answered(process, port, CALLS["decode"])
        for connections in CONNECTIONS:
            wrk.run(port, CALLS["decode"], connections, WARM_UP_S)
            load = wrk.run(port, CALLS["decode"], connections, seconds)
            with wrk.running(port, CALLS["livez"], 1, seconds) as probe:
                wrk.run(port, CALLS["decode"], connections, seconds)
                livez = wrk.finish(probe, 1)
            result[str(connections)] = {"decode": asdict(load), "livez": asdict(livez)}
    return result
