"""Row 26: five hundred connections to a service that may open 128 descriptors a process."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.soak.client import Connection, Lost, connect, write_request
from tests.soak.exchanges import JSON, ask_alone
from tests.soak.load import answered_within
from tests.soak.plan import Findings, Plan
from tests.soak.server import serving

LIMIT = 128
CONNECTIONS = 500
HELD_S = 5
RECOVERY_LIMIT_S = 10
GOOD_CALLERS = 100
GOOD_CALLER_S = 1.0


async def run(plan: Plan) -> Findings:
    """Accepted clients get their responses all the time; once they have left, all clients do."""
    findings = Findings()
    loop = asyncio.get_running_loop()
    request = write_request("POST", "/decode", b"[0.1, 0.2, 0.3]", content_type=JSON)
    async with serving(plan.core, descriptors=LIMIT) as server:
        (exchange,) = await ask_alone(server.port, [("one latent", request)])
        before, workers = await server.settled(), server.workers()

        async def hold(connection: Connection) -> int:
            """Return the number of responses."""
            right = 0
            with suppress(Lost):
                while loop.time() < until:
                    right += exchange.matches(await connection.ask(exchange.request))
                    await asyncio.sleep(0.5)
            return right

        until = loop.time() + HELD_S
        connections = await asyncio.gather(*(connect(server.port) for _ in range(CONNECTIONS)), return_exceptions=True)
        held = [connection for connection in connections if isinstance(connection, Connection)]
        holding = [asyncio.create_task(hold(connection)) for connection in held]
        spent = server.pinned.cpu_seconds()
        done, late = await asyncio.wait(holding, timeout=HELD_S + GOOD_CALLER_S)
        most = server.resources().descriptors
        busy = (server.pinned.cpu_seconds() - spent) / (HELD_S + GOOD_CALLER_S)
        for connection in held:
            connection.transport.abort()
        await asyncio.wait(holding)
        gone = loop.time()
        for _ in range(RECOVERY_LIMIT_S):
            if await answered_within(server.port, exchange, GOOD_CALLER_S):
                break
        recovered = loop.time() - gone
        good = [await answered_within(server.port, exchange, GOOD_CALLER_S) for _ in range(GOOD_CALLERS)]
        after = await server.settled(before)
        findings.figures = {
            "connections": CONNECTIONS,
            "answered": sum(task.result() > 0 for task in done),
            "shed": sum(task.result() == 0 for task in done),
            "left waiting": len(late),
            "descriptors at most": most,
            "share of a core": busy,
            "recovered after, s": recovered,
            "good clients afterwards, %": 100 * sum(good) / len(good),
            "workers lost": len(workers - server.workers()),
            "descriptors grown": after.descriptors - before.descriptors,
            "tracebacks": server.tracebacks(),
        }
    return findings
