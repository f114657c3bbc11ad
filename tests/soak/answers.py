"""Row 17: every caller gets the answer to its own question."""

from __future__ import annotations

from tests.soak.load import HANGS_AFTER_S, ClosedLoop
from tests.soak.plan import Findings, Plan
from tests.soak.questions import ask_alone, large_requests, shuffled, small_requests
from tests.soak.server import serving

CONNECTIONS = 2000
"""As many requests are in flight all the time; either worker has places for all of them."""
MEMORY = 8 * 10**9
"""Bytes for the requests of a worker: as many as CONNECTIONS answers of 64 images as JSON take."""
FLAGS = (
    "--queue-limit", str(CONNECTIONS), "--memory-limit", str(MEMORY), "--request-deadline", str(3 * HANGS_AFTER_S),
)  # fmt: skip


async def run(plan: Plan) -> Findings:
    """Single items, batches, walks and forms, all at once."""
    findings = Findings()
    async with serving(plan.core, *FLAGS) as server:
        questions = await ask_alone(server.port, [*small_requests(), *large_requests()])
        load = ClosedLoop(server.port, shuffled(questions, plan.answers), CONNECTIONS, findings)
        seconds = await load.run()
        findings.figures = {
            "requests": load.sent,
            "questions": len(questions),
            "in flight": load.most_waiting,
            "requests a second": load.sent / seconds,
            "wrong": load.wrong,
            "lost": load.lost,
            "tracebacks": server.tracebacks(),
        }
    return findings
