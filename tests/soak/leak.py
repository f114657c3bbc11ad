"""Row 28: memory and descriptors do not grow over a million requests."""

from __future__ import annotations

from tests.soak.exchanges import ask_alone, ask_anything, large_requests, other_requests, shuffled, small_requests
from tests.soak.load import ClosedLoop
from tests.soak.plan import Findings, Plan
from tests.soak.server import serving

CONNECTIONS = 64
LARGE_ONE_IN = 50
OTHERS = 30
"""Share of each probe, refusal and request of another protocol, relative to each small request."""
REOPENS = 50
"""Requests after which a client reconnects."""


async def run(plan: Plan) -> Findings:
    """Send mostly single items; the first hundredth is a warm-up that is not measured."""
    findings = Findings()
    async with serving(plan.core) as server:
        started = await server.settled()
        small = await ask_alone(server.port, list(small_requests()))
        large = await ask_alone(server.port, list(large_requests()))
        others = await ask_anything(server.port, list(other_requests()))
        exchanges = OTHERS * others + small * max(1, LARGE_ONE_IN * len(large) // len(small)) + large
        warm_up = ClosedLoop(server.port, shuffled(exchanges, plan.requests // 100), CONNECTIONS, findings)
        await warm_up.run()
        before = await server.settled()
        load = ClosedLoop(server.port, shuffled(exchanges, plan.requests), CONNECTIONS, findings, REOPENS)
        seconds = await load.run()
        after = await server.settled(before)
        findings.figures = {
            "requests": load.sent,
            "requests a second": load.sent / seconds,
            "refusals": load.refused,
            "connections made anew": load.reopened,
            "wrong": warm_up.wrong + load.wrong,
            "lost": warm_up.lost + load.lost,
            "MB at start": started.rss_mb,
            "MB before": before.rss_mb,
            "MB after": after.rss_mb,
            "MB grown": after.rss_mb - before.rss_mb,
            "descriptors before": before.descriptors,
            "descriptors after": after.descriptors,
            "descriptors grown": after.descriptors - before.descriptors,
            "tracebacks": server.tracebacks(),
        }
    return findings
