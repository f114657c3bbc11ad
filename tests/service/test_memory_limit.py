"""Requests that need far more memory than a worker may take, all at once, to a real service."""

from __future__ import annotations

import asyncio

import pytest

from tests.live import live_server
from tests.soak.memory import LIMIT_MB, press
from tests.soak.plan import Findings

pytestmark = pytest.mark.slow

CALLERS = 4
"""Clients of each kind."""
SECONDS = 1
"""For how long they send; the soak does it for a minute."""


def test_a_worker_stays_within_its_budget_of_memory() -> None:
    """Good clients are answered meanwhile; afterwards everything is released."""
    findings = Findings()
    with live_server("--memory-limit", str(LIMIT_MB * 10**6)) as server:
        figures = asyncio.run(press(server.port, [server.process.pid], CALLERS, SECONDS, findings))
        assert "Traceback" not in server.log
    assert findings.problems == []
    assert figures["MB at most"] <= 1.2 * LIMIT_MB
    assert figures["good clients"] >= SECONDS
    assert figures["good clients, %"] == 100
    assert figures["refused"] > 0
    assert figures["refused, as counted"] >= figures["refused"]
    assert figures["without Retry-After"] == 0
    assert figures["bytes held afterwards"] == 0
    assert figures["large requests afterwards, %"] == 100
