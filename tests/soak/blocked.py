"""Row 23: one request blocks the event loop of a worker."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.soak import blocking
from tests.soak.client import Connection, Lost, Response, connect, write_request
from tests.soak.exchanges import JSON, Exchange, ask_alone
from tests.soak.faults import is_alive, until_replaced
from tests.soak.load import answered_within
from tests.soak.plan import Findings, Plan, log_progress
from tests.soak.server import Server, serving

GOOD_CALLER_EVERY_S = 0.25
GOOD_CALLERS_S = 5


async def run(plan: Plan) -> Findings:
    """Block a worker, and count the responses of the other one meanwhile."""
    findings = Findings()
    loop = asyncio.get_running_loop()
    async with serving(plan.core, module=blocking.__name__) as server:
        light = write_request("POST", "/decode", b"[0.1, 0.2, 0.3]", content_type=JSON)
        (exchange,) = await ask_alone(server.port, [("one latent", light)])
        poison, probed = await _two_of_one_worker(server)
        workers = server.workers()
        begun = loop.time()
        blocked = asyncio.create_task(poison.ask(write_request("GET", blocking.PATH)))
        await asyncio.sleep(0.5)
        alive = await is_alive(probed)
        good = asyncio.create_task(_good_clients(server.port, exchange, blocked))
        replaced = await until_replaced(server, workers) - begun
        log_progress(f"  a new worker after {replaced:.1f} s")
        blocked.cancel()
        with suppress(Lost, asyncio.CancelledError):
            await blocked
        answered, failed = await good
        if failed:
            findings.add_problem(f"{failed} of {answered + failed} good clients were not answered meanwhile.")
        findings.figures = {
            "/livez answered": alive,
            "replaced, s": replaced,
            "good clients answered": answered,
            "good clients lost": failed,
            "tracebacks": server.tracebacks(),
        }
    return findings


async def _two_of_one_worker(server: Server) -> tuple[Connection, Connection]:
    """Open two connections that the same worker serves."""
    first: dict[int, Connection] = {}
    while True:
        connection = await connect(server.port)
        if await is_alive(connection):
            (worker,) = server.servers_of([connection.port]).values()
            if worker in first:
                return first[worker], connection
            first[worker] = connection


async def _good_clients(port: int, exchange: Exchange, until: asyncio.Task[Response]) -> tuple[int, int]:
    """Count the right responses, and the others, until the blocking request ends."""
    answered = failed = 0
    while not until.done():
        if await answered_within(port, exchange, GOOD_CALLERS_S):
            answered += 1
        else:
            failed += 1
        await asyncio.sleep(GOOD_CALLER_EVERY_S)
    return answered, failed
