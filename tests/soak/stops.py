"""Row 24: stopped a hundred times under load, and nothing that had come is lost."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from typing import NamedTuple

from tests.soak.callers import Callers
from tests.soak.plan import Findings, Plan, tell
from tests.soak.questions import Question, ask_alone, large_requests, small_requests
from tests.soak.server import Server, serving

CALLERS = 64
LIMIT_S = 40
"""Longer than the service's drain time, 30 s by default."""
LAST_ANSWERS_S = 5
LOAD_S = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Before the stop; each in turn, so that it comes at different moments of the load."""
TELL_EVERY = 10


class Stop(NamedTuple):
    """What one stop did; of requests only those are told that had been written before the signal."""

    waiting: int
    """Without an answer when the signal was sent."""
    lost: int
    """Of these, those that got none."""
    right: int
    refused: int
    wrong: int
    later: int
    """Requests that were begun after the signal and found the connection closed, or nobody listening."""
    seconds: float
    """From the signal to the end."""
    failed: bool
    """Another exit status than 0, or none, or processes left behind."""
    tracebacks: int


async def run(plan: Plan) -> Findings:
    """Lost is a request that had been written before the signal was sent, and got neither its answer nor a 503."""
    findings = Findings()
    stops: list[Stop] = []
    questions: list[Question] = []
    for number in range(1, plan.stops + 1):
        async with serving(plan.core) as server:
            if not questions:
                questions = await ask_alone(server.port, [*small_requests(), *list(large_requests())[::4]])
            stops.append(await _stop(server, questions, LOAD_S[number % len(LOAD_S)], findings))
        if number % TELL_EVERY == 0:
            tell(f"  {number} stops, {sum(stop.lost for stop in stops)} requests lost")
    findings.figures = {
        "stops": len(stops),
        "waiting": sum(stop.waiting for stop in stops),
        "lost": sum(stop.lost for stop in stops),
        "right": sum(stop.right for stop in stops),
        "refused": sum(stop.refused for stop in stops),
        "wrong": sum(stop.wrong for stop in stops),
        "came too late": sum(stop.later for stop in stops),
        "slowest, s": max(stop.seconds for stop in stops),
        "failed": sum(stop.failed for stop in stops),
        "tracebacks": sum(stop.tracebacks for stop in stops),
    }
    return findings


async def _stop(server: Server, questions: list[Question], load_s: float, findings: Findings) -> Stop:
    loop = asyncio.get_running_loop()
    callers = Callers(server.port, questions, CALLERS)
    asking = asyncio.create_task(callers.run())
    await asyncio.sleep(load_s)
    waiting = len(callers.waiting_since(loop.time()))
    begun = loop.time()
    await asyncio.sleep(0.001)  # what was asked before has been written
    server.pinned.main.send_signal(signal.SIGTERM)
    try:
        status: int | None = await asyncio.to_thread(server.pinned.main.wait, LIMIT_S)
    except subprocess.TimeoutExpired:
        status = None
    seconds = loop.time() - begun
    callers.stop()
    await asyncio.wait([asking], timeout=LAST_ANSWERS_S)
    for caller in callers.waiting_since(begun):
        caller.give_up("it hung")
    await asking
    left = server.pinned.processes()
    if status != 0 or left:
        findings.complain(f"After a stop: exit status {status}, {len(left)} processes left.")
    lost = [failure for failure in callers.failures if failure.port and failure.asked_at < begun]
    for failure in lost:
        ago = begun - failure.asked_at
        findings.complain(f"A request written {ago:.3f} s before the stop got no answer: {failure.reason}.")
    for wrong in callers.wrong:
        findings.complain(f"A wrong answer at a stop: {wrong}.")
    return Stop(
        waiting=waiting,
        lost=len(lost),
        right=callers.right,
        refused=callers.refused,
        wrong=len(callers.wrong),
        later=len(callers.failures) - len(lost),
        seconds=seconds,
        failed=status != 0 or bool(left),
        tracebacks=server.tracebacks(),
    )
