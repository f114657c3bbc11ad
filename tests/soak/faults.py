"""Rows 22 and 23: workers killed, a worker that is stuck, a supervisor killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.soak.client import Connection, Lost, connect, write_request
from tests.soak.clients import Clients
from tests.soak.exchanges import Exchange, ask_alone, small_requests
from tests.soak.plan import Figures, Findings, Plan, log_progress
from tests.soak.server import Server, serving

CALLERS = 32
LIMIT_S = 60
"""Seconds after which a fault is given up as not recovered."""
HANGS_AFTER_S = 5
PROBE = write_request("GET", "/livez")
PROBE_S = 1.0


@dataclass(frozen=True)
class Fault:
    """The effect of one worker's fault on clients."""

    failed_after_s: float
    """Seconds from the fault until the last request of the worker failed."""
    replaced_after_s: float
    """Seconds from the fault until a new worker responded."""
    lost: int
    """Requests to the other worker, or to the new one, without a response."""
    hung: int
    failed: int
    answered: int
    """Responses of the other worker until the new one responded."""


async def run(plan: Plan) -> Findings:
    """Inject each fault under load."""
    findings = Findings()
    async with serving(plan.core) as server:
        exchanges = await ask_alone(server.port, list(small_requests()))
        before = await server.settled()
        clients = Clients(server.port, exchanges, CALLERS)
        asking = asyncio.create_task(clients.run())
        kills = [await _fault(server, clients, signal.SIGKILL, findings) for _ in range(plan.kills)]
        stuck = [await _fault(server, clients, signal.SIGSTOP, findings)]
        clients.stop()
        await asking
        after = await server.settled(before)
        findings.figures = {
            **_told("killed", kills),
            **_told("stuck", stuck),
            "right": clients.right,
            "wrong": len(clients.wrong),
            "descriptors grown": after.descriptors - before.descriptors,
            **await _kill_supervisor(server, exchanges, findings),
            "tracebacks": server.tracebacks(),
        }
        for wrong in clients.wrong:
            findings.add_problem(f"A wrong response: {wrong}.")
    return findings


def _told(name: str, faults: Sequence[Fault]) -> Figures:
    return {
        name: len(faults),
        f"{name}, failed, s": max(fault.failed_after_s for fault in faults),
        f"{name}, replaced, s": max(fault.replaced_after_s for fault in faults),
        f"{name}, lost": sum(fault.lost for fault in faults),
        f"{name}, hung": sum(fault.hung for fault in faults),
        f"{name}, failed": sum(fault.failed for fault in faults),
        f"{name}, answered meanwhile": min(fault.answered for fault in faults),
    }


async def _fault(server: Server, clients: Clients, sig: signal.Signals, findings: Findings) -> Fault:
    """Send `sig` to the worker with the most clients."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(1)
    workers = server.workers()
    served = server.servers_of(clients.ports)
    victim = max(workers, key=list(served.values()).count)
    seen, right = len(clients.failures), clients.right
    begun = loop.time()
    os.kill(victim, sig)
    replaced = await until_replaced(server, workers) - begun
    answered = clients.right - right
    await asyncio.sleep(1)
    failures = clients.failures[seen:]
    own = [failure for failure in failures if served.get(failure.port) == victim]
    for failure in failures:
        if failure not in own:
            findings.add_problem(f"{sig.name}: a request to another worker got no response: {failure.reason}.")
    hung = clients.waiting_since(loop.time() - HANGS_AFTER_S)
    for caller in hung:
        caller.give_up("it hung")
    if victim in server.workers():
        findings.add_problem(f"{sig.name}: the worker is still there.")
        os.kill(victim, signal.SIGKILL)
    log_progress(f"  {sig.name}: {len(own)} requests failed, a new worker after {replaced:.1f} s")
    last = max((failure.failed_at for failure in own), default=begun)
    return Fault(last - begun, replaced, len(failures) - len(own), len(hung), len(own), answered)


async def until_replaced(server: Server, old: set[int]) -> float:
    """Wait until a worker that is not one of `old` responds, or no client waits; returns the event loop's time."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + LIMIT_S
    while loop.time() < give_up:
        if server.workers() - old:
            connection = await connect(server.port)
            if await is_alive(connection) and set(server.servers_of([connection.port]).values()) - old:
                now = loop.time()
                connection.transport.close()
                return now
            connection.transport.abort()
        await asyncio.sleep(0.02)
    return loop.time()


async def is_alive(connection: Connection) -> bool:
    with suppress(Lost, TimeoutError):
        async with asyncio.timeout(PROBE_S):
            return (await connection.ask(PROBE)).status == 200
    return False


async def _kill_supervisor(server: Server, exchanges: list[Exchange], findings: Findings) -> Figures:
    """Kill the supervisor under load: its workers have to finish their requests and end, as nothing replaces them."""
    loop = asyncio.get_running_loop()
    clients = Clients(server.port, exchanges, CALLERS)
    asking = asyncio.create_task(clients.run())
    await asyncio.sleep(1)
    begun = loop.time()
    await asyncio.sleep(0.001)  # until earlier requests are written
    server.pinned.main.kill()
    server.pinned.main.wait()
    while server.pinned.processes() and loop.time() < begun + LIMIT_S:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0.05)
    gone = loop.time() - begun
    clients.stop()
    left = server.pinned.processes()
    if not left:
        await asking
    lost = [failure for failure in clients.failures if failure.port and failure.asked_at < begun]
    for failure in lost:
        findings.add_problem(f"Supervisor killed: a request before that got no response: {failure.reason}.")
    log_progress(f"  SIGKILL of the supervisor: {len(left)} processes left after {gone:.1f} s")
    asking.cancel()
    return {
        "orphans left": len(left),
        "orphans gone, s": gone,
        "orphans' clients lost": len(lost),
        "orphans' wrong answers": len(clients.wrong),
    }
