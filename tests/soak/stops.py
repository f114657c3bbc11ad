"""Row 24: a hundred stops under load lose no request that was received."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from typing import NamedTuple

from tests.soak.clients import Clients
from tests.soak.exchanges import Exchange, ask_alone, large_requests, small_requests
from tests.soak.plan import Findings, Plan, log_progress
from tests.soak.server import Server, serving

CALLERS = 64
LIMIT_S = 40
"""Seconds to wait for the end: more than the service's default drain time, 30 s."""
LAST_ANSWERS_S = 5
LOAD_S = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Seconds of load before a stop, in turn, so that stops happen at different moments."""
TELL_EVERY = 10


class Stop(NamedTuple):
    """The effect of one stop on requests that were written before the signal."""

    waiting: int
    """Requests without a response when the signal was sent."""
    lost: int
    """Requests of these that never got one."""
    right: int
    refused: int
    wrong: int
    later: int
    """Requests after the signal that found the connection closed or nothing listening."""
    seconds: float
    """Seconds from the signal to the end."""
    failed: bool
    """Exit statuses other than 0, missing ones, and processes that are left."""
    tracebacks: int


async def run(plan: Plan) -> Findings:
    """Count a request as lost if it was written before the signal and got neither its response nor a 503."""
    findings = Findings()
    stops: list[Stop] = []
    exchanges: list[Exchange] = []
    for number in range(1, plan.stops + 1):
        async with serving(plan.core) as server:
            if not exchanges:
                exchanges = await ask_alone(server.port, [*small_requests(), *list(large_requests())[::4]])
            stops.append(await _stop(server, exchanges, LOAD_S[number % len(LOAD_S)], findings))
        if number % TELL_EVERY == 0:
            log_progress(f"  {number} stops, {sum(stop.lost for stop in stops)} requests lost")
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


async def _stop(server: Server, exchanges: list[Exchange], load_s: float, findings: Findings) -> Stop:
    loop = asyncio.get_running_loop()
    clients = Clients(server.port, exchanges, CALLERS)
    asking = asyncio.create_task(clients.run())
    await asyncio.sleep(load_s)
    waiting = len(clients.waiting_since(loop.time()))
    begun = loop.time()
    await asyncio.sleep(0.001)  # until earlier requests are written
    server.pinned.main.send_signal(signal.SIGTERM)
    try:
        status: int | None = await asyncio.to_thread(server.pinned.main.wait, LIMIT_S)
    except subprocess.TimeoutExpired:
        status = None
    seconds = loop.time() - begun
    clients.stop()
    await asyncio.wait([asking], timeout=LAST_ANSWERS_S)
    for caller in clients.waiting_since(begun):
        caller.give_up("it hung")
    await asking
    left = server.pinned.processes()
    if status != 0 or left:
        findings.add_problem(f"After a stop: exit status {status}, {len(left)} processes left.")
    lost = [failure for failure in clients.failures if failure.port and failure.asked_at < begun]
    for failure in lost:
        ago = begun - failure.asked_at
        findings.add_problem(f"A request written {ago:.3f} s before the stop got no response: {failure.reason}.")
    for wrong in clients.wrong:
        findings.add_problem(f"A wrong response at a stop: {wrong}.")
    return Stop(
        waiting=waiting,
        lost=len(lost),
        right=clients.right,
        refused=clients.refused,
        wrong=len(clients.wrong),
        later=len(clients.failures) - len(lost),
        seconds=seconds,
        failed=status != 0 or bool(left),
        tracebacks=server.tracebacks(),
    )
