"""Row 17: each client gets the response to its own request."""

from __future__ import annotations

from tests.soak.exchanges import ask_alone, large_requests, shuffled, small_requests
from tests.soak.load import HANGS_AFTER_S, ClosedLoop
from tests.soak.plan import Findings, Plan
from tests.soak.server import serving

CONNECTIONS = 2000
"""Requests in flight at any time; either worker has slots for all of them."""
MEMORY = 8 * 10**9
"""Memory limit of a worker, bytes: enough for CONNECTIONS responses of 64 images as JSON."""
FLAGS = (
    "--queue-limit", str(CONNECTIONS), "--memory-limit", str(MEMORY), "--request-deadline", str(3 * HANGS_AFTER_S),
)  # fmt: skip


async def run(plan: Plan) -> Findings:
    """Send single items, batches, paths and forms concurrently."""
    findings = Findings()
    async with serving(plan.core, *FLAGS) as server:
        exchanges = await ask_alone(server.port, [*small_requests(), *large_requests()])
        load = ClosedLoop(server.port, shuffled(exchanges, plan.answers), CONNECTIONS, findings)
        seconds = await load.run()
        findings.figures = {
            "requests": load.sent,
            "exchanges": len(exchanges),
            "in flight": load.most_waiting,
            "requests a second": load.sent / seconds,
            "wrong": load.wrong,
            "lost": load.lost,
            "tracebacks": server.tracebacks(),
        }
    return findings
