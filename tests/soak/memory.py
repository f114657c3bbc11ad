"""Requests and responses that take much memory, from many clients at once: a worker keeps to its budget."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import psutil

from tests.soak.attack_requests import Attack
from tests.soak.attacker import Outcome, send
from tests.soak.attacks import attack
from tests.soak.client import HOST, Lost, connect, write_request
from tests.soak.exchanges import JSON, PNG, Exchange, ask_alone, digits, picture
from tests.soak.load import answered_within
from tests.soak.plan import Figures, Findings, Plan
from tests.soak.server import serving

LIMIT_MB = 1024
"""Memory limit of a worker: enough for some of the large requests, far too little for all."""
ATTACKS = (
    "PNG of 49 million pixels to /remote/encode",
    "npy of 10,000 images, gzip, to /encode",
    "JSON, [0],[0],…, gzip, to /v2/models/mnist/infer",
)
LARGE_ANSWER = write_request("GET", "/sample?n=10000", accept=JSON)
"""Its response has more than 100 MB."""
LARGE_REQUESTS = ("npy of 10,000 images, gzip, to /encode", "npy of 10,000 images, gzip, to /reconstruct")
"""Requests that must get a 200 afterwards."""
SLOW_READERS = 16
SLOW_READ_BYTES, SLOW_READ_EVERY_S = 17_000, 0.1
"""170 kB/s."""
AGAIN_AFTER_S = 0.1
"""Seconds from a response to the client's next request."""
GOOD_CALLER_EVERY_S = 0.1
GOOD_CALLER_S = 5.0
SAMPLE_EVERY_S = 0.02
RELEASE_LIMIT_S = 15
"""Seconds within which all reserved memory must be released."""
MISSED_DEADLINE = 504
"""Status of admitted requests that miss their deadline, as hundreds of clients share the processor."""
REASONS = ("memory", "queue_full")
"""Reasons of a refusal: the memory is in use, or too much work waits for a thread."""
SECONDS = 60
"""Duration of a long run."""


class Pressure:
    """Sends requests that take memory, and valid ones, and watches the workers' resident set sizes."""

    def __init__(self, port: int, pids: Collection[int], exchanges: Sequence[Exchange], findings: Findings) -> None:
        self.statuses: Counter[int] = Counter()
        self.lost = self.without_retry_after = self.good = self.right = 0
        self.most_mb = 0.0
        self._port = port
        self._pids = pids
        self._exchanges = exchanges
        self._findings = findings

    async def run(self, clients: int, seconds: float) -> None:
        """Send each attack from `clients` clients for `seconds`; returns after the last response."""
        until = asyncio.get_running_loop().time() + seconds
        watch = asyncio.create_task(self._watch())
        good = [asyncio.create_task(self._ask_on(exchange)) for exchange in self._exchanges]
        readers = [asyncio.create_task(read_slowly(self._port)) for _ in range(SLOW_READERS)]
        chosen = [attack(name) for name in ATTACKS]
        chosen = [each._replace(statuses=each.statuses | {MISSED_DEADLINE}) for each in chosen]
        await asyncio.gather(*(self._send_on(each, until) for each in chosen for _ in range(clients)))
        for task in (*readers, *good, watch):
            task.cancel()
        await asyncio.gather(*readers, *good, watch, return_exceptions=True)

    async def _send_on(self, sent: Attack, until: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            self._judge(sent, await send(self._port, sent))
            await asyncio.sleep(AGAIN_AFTER_S)

    def _judge(self, sent: Attack, outcome: Outcome) -> None:
        self.statuses.update(outcome.statuses)
        self.without_retry_after += outcome.without_retry_after
        self.lost += bool(outcome.lost)
        if fault := outcome.fault(sent):
            self._findings.add_problem(f"{sent.name}: {fault}.")

    async def _ask_on(self, exchange: Exchange) -> None:
        while True:
            right = await answered_within(self._port, exchange, GOOD_CALLER_S)
            self.good += 1
            self.right += right
            if not right:
                self._findings.add_problem(f"{exchange.name}: no right response within {GOOD_CALLER_S:g} s.")
            await asyncio.sleep(GOOD_CALLER_EVERY_S)

    async def _watch(self) -> None:
        while True:
            self.most_mb = max(self.most_mb, *(resident_mb(pid) for pid in self._pids))
            await asyncio.sleep(SAMPLE_EVERY_S)


async def press(port: int, pids: Collection[int], clients: int, seconds: float, findings: Findings) -> Figures:
    """Measure the workers `pids` under pressure and afterwards."""
    image = write_request("POST", "/encode", picture(digits()[0], "PNG"), content_type=PNG, accept=JSON)
    latent = write_request("POST", "/decode", b"[0.1, 0.2, 0.3]", content_type=JSON, accept=PNG)
    exchanges = await ask_alone(port, [("a small picture", image), ("one latent", latent)])
    pressure = Pressure(port, pids, exchanges, findings)
    await pressure.run(clients, seconds)
    loop = asyncio.get_running_loop()
    ended = loop.time()
    metrics = await read_metrics(port)
    while metrics.get("vae_memory_bytes", 0) and loop.time() - ended < RELEASE_LIMIT_S:
        await asyncio.sleep(0.5)
        metrics = await read_metrics(port)
    again = [await send(port, attack(name)) for name in LARGE_REQUESTS]
    return {
        "clients": len(ATTACKS) * clients + SLOW_READERS,
        **{f"status {status}": pressure.statuses[status] for status in sorted(pressure.statuses)},
        "5xx but 503 and 504": sum(
            count
            for status, count in pressure.statuses.items()
            if status >= 500 and status not in (503, MISSED_DEADLINE)
        ),
        "refused": pressure.statuses[503],
        "refused, as counted": sum(
            count
            for name, count in metrics.items()
            if name.startswith("vae_refusals_total{") and any(f'reason="{why}"' in name for why in REASONS)
        ),
        "without Retry-After": pressure.without_retry_after,
        "lost": pressure.lost,
        "good clients": pressure.good,
        "good clients, %": 100 * pressure.right / max(1, pressure.good),
        "MB at most": pressure.most_mb,
        "bytes held afterwards": metrics.get("vae_memory_bytes", float("nan")),
        "large requests afterwards, %": 100 * sum(each.statuses == (200,) for each in again) / len(again),
    }


async def run(plan: Plan) -> Findings:
    """Run with two workers, each of which has its own memory budget."""
    findings = Findings()
    async with serving(plan.core, "--memory-limit", str(LIMIT_MB * 10**6)) as server:
        workers = server.workers()
        seconds = SECONDS if plan.memory_callers > 100 else SECONDS / 10
        figures = await press(server.port, workers, plan.memory_callers, seconds, findings)
        findings.figures = {
            **figures,
            "MB at most, % of the limit": 100 * figures["MB at most"] / LIMIT_MB,
            "workers lost": len(workers - server.workers()),
            "tracebacks": server.tracebacks(),
        }
    return findings


async def read_slowly(port: int, request: bytes = LARGE_ANSWER) -> None:
    """Send a request, and read the response at 170 kB/s until cancelled or disconnected."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.setblocking(False)
        with suppress(OSError):
            await loop.sock_connect(connection, (HOST, port))
            await loop.sock_sendall(connection, request)
            while await loop.sock_recv(connection, SLOW_READ_BYTES):  # noqa: ASYNC110 - the pause is meant
                await asyncio.sleep(SLOW_READ_EVERY_S)


async def read_metrics(port: int) -> Mapping[str, float]:
    """Samples of /metrics by name and labels; empty without a response."""
    with suppress(Lost):
        connection = await connect(port)
        try:
            response = await connection.ask(write_request("GET", "/metrics"))
        finally:
            connection.transport.close()
        samples = re.findall(r"^(vae_\S+) (\S+)$", response.body.decode(), re.MULTILINE)
        return {name: float(value) for name, value in samples}
    return {}


def resident_mb(pid: int) -> float:
    """Resident set size, MB of 10⁶ bytes; 0 where the process has ended."""
    with suppress(psutil.NoSuchProcess):
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    return 0.0
