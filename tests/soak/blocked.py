"""Row 23: a worker whose event loop is blocked, by one request that takes it half a minute."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from tests.soak.client import Answer, Connection, Lost, connect, write_request
from tests.soak.faults import is_alive, until_replaced
from tests.soak.load import answered_within
from tests.soak.plan import Findings, Plan, tell
from tests.soak.questions import JSON, NPY, Question, ask_alone, npy
from tests.soak.server import Server, serving
from vae.checkpoint import save
from vae.config import VAEConfig
from vae.model import VAE

HEAVY = VAEConfig(image_shape=(1, 8, 8), hidden_dim=4096, hidden_layers=3)
BLOCKED_S = 30
TRIAL_ROWS = 500
MOST_ROWS = 40_000
FLAGS = ("--compute", "inline", "--batch-limit", str(MOST_ROWS), "--micro-batch-limit", str(MOST_ROWS))
"""A batch of any size is computed in one go, on the event loop."""
GOOD_CALLER_EVERY_S = 0.25
GOOD_CALLERS_S = 5
"""The two workers share a core, of which the blocked one takes half."""


async def run(plan: Plan) -> Findings:
    """The other worker answers meanwhile."""
    findings = Findings()
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "heavy.safetensors"
        save(checkpoint, VAE(HEAVY), training={}, figures={})
        async with serving(plan.core, "--checkpoint", str(checkpoint), *FLAGS) as server:
            light = write_request("POST", "/decode", b"[0.1, 0.2, 0.3]", content_type=JSON)
            (question,) = await ask_alone(server.port, [("one latent", light)])
            poison, probed = await _two_of_one_worker(server)
            begun = loop.time()
            if (await poison.ask(_decode(TRIAL_ROWS))).status != 200:
                raise RuntimeError("The heavy model does not decode.")
            rows = min(MOST_ROWS, round(TRIAL_ROWS * BLOCKED_S / (loop.time() - begun)))
            workers = server.workers()
            begun = loop.time()
            blocking = asyncio.create_task(poison.ask(_decode(rows)))
            await asyncio.sleep(0.5)
            alive = await is_alive(probed)
            good = asyncio.create_task(_good_callers(server.port, question, blocking))
            replaced = await until_replaced(server, workers) - begun
            tell(f"  {rows} rows in one request: a new worker after {replaced:.1f} s")
            blocking.cancel()
            with suppress(Lost, asyncio.CancelledError):
                await blocking
            answered, failed = await good
            if failed:
                findings.complain(f"{failed} of {answered + failed} good callers were not answered meanwhile.")
            findings.figures = {
                "/livez answered": alive,
                "replaced, s": replaced,
                "good callers answered": answered,
                "good callers lost": failed,
                "tracebacks": server.tracebacks(),
            }
    return findings


def _decode(rows: int) -> bytes:
    body = npy(np.zeros((rows, HEAVY.latent_dim), np.float32))
    return write_request("POST", "/decode", body, content_type=NPY, accept=NPY)


async def _two_of_one_worker(server: Server) -> tuple[Connection, Connection]:
    """Two connections that the same worker serves."""
    first: dict[int, Connection] = {}
    while True:
        connection = await connect(server.port)
        if await is_alive(connection):
            (worker,) = server.servers_of([connection.port]).values()
            if worker in first:
                return first[worker], connection
            first[worker] = connection


async def _good_callers(port: int, question: Question, until: asyncio.Task[Answer]) -> tuple[int, int]:
    """How many were answered rightly, and how many were not, until that request has ended."""
    answered = failed = 0
    while not until.done():
        if await answered_within(port, question, GOOD_CALLERS_S):
            answered += 1
        else:
            failed += 1
        await asyncio.sleep(GOOD_CALLER_EVERY_S)
    return answered, failed
