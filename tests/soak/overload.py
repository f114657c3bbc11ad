"""Rows 18 and 27: an open loop at ten times the service's capacity."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from tests.soak.client import Connection, Lost, connect, write_request
from tests.soak.exchanges import NPY, Exchange, ask_alone
from tests.soak.load import ClosedLoop
from tests.soak.plan import Findings, Plan, log_progress
from tests.soak.server import Resources, Server, serving

TIMES_CAPACITY = 10.2
"""Ten, and some margin for the ticks in which requests are sent."""
TICK_S = 0.002
QUEUE_LIMIT = 64
"""Queue limit of a worker: reached after a second or two instead of the half minute of the default."""
BATCH = 1000
"""Samples of a request. A refusal takes a sixth of a millisecond, so that refusals of small requests, at ten times the
capacity, would take all of the time."""
CONNECTIONS = (4, 16, 64)
"""Numbers of connections, of which the one with the highest rate is the peak."""
PROBE_EVERY_S = 0.05
PROBE_S = 5
"""Seconds after which a probe has failed."""
PROBES = tuple(write_request("GET", target) for target in ("/livez", "/readyz"))


class OpenLoop:
    """Sends requests at a fixed rate, each on a free connection or a new one."""

    def __init__(self, port: int, exchange: Exchange, findings: Findings) -> None:
        self.right = self.wrong = self.lost = 0
        self.statuses: Counter[int] = Counter()
        self.refused_after_s: list[float] = []
        """Seconds from when a request was due to its 503."""
        self.without_retry_after = 0
        self._port = port
        self._question = exchange
        self._findings = findings
        self._free: list[Connection] = []
        self._deadline = 0.0

    async def run(self, rate: float, seconds: float) -> int:
        """Send requests; returns their number. Responses after the deadline are awaited, but do not count as right."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._deadline = begun + seconds
        tasks: set[asyncio.Task[None]] = set()
        sent = 0
        while (now := loop.time()) < self._deadline:
            for number in range(sent, int((now - begun) * rate) + 1):
                task = asyncio.create_task(self._ask(begun + number / rate))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent = number + 1
            await asyncio.sleep(TICK_S)
        if tasks:
            await asyncio.wait(tasks, timeout=60)
        for task in tasks:
            self.lost += 1
            task.cancel()
        for connection in self._free:
            connection.transport.close()
        return sent

    async def _ask(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection = self._free.pop() if self._free else await connect(self._port)
            response = await connection.ask(self._question.request)
        except Lost as lost:
            self.lost += 1
            self._findings.add_problem(f"No response under overload: {lost}.")
            return
        now = loop.time()
        if connection.open:
            self._free.append(connection)
        self.statuses[response.status] += 1
        if response.status == 503:
            self.refused_after_s.append(now - due)
            self.without_retry_after += b"retry-after" not in response.fields
        elif not self._question.matches(response):
            self.wrong += 1
            self._findings.add_problem(f"A wrong response under overload: {response.status}, {response.body[:200]!r}.")
        elif now < self._deadline:
            self.right += 1


class Watch:
    """Sends probes as an orchestrator does, on new connections, and measures what the service holds."""

    def __init__(self, server: Server) -> None:
        self.probed_s: list[float] = []
        self.failed = 0
        self.most = server.resources()
        self._server = server

    async def run(self) -> None:
        """Send probes until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            for probe in PROBES:
                begun = loop.time()
                self.failed += not await self._is_well(probe)
                self.probed_s.append(loop.time() - begun)
            held = self._server.resources()
            self.most = Resources(max(self.most.rss_mb, held.rss_mb), max(self.most.descriptors, held.descriptors))
            await asyncio.sleep(PROBE_EVERY_S)

    async def _is_well(self, probe: bytes) -> bool:
        with suppress(Lost, TimeoutError):
            async with asyncio.timeout(PROBE_S):
                connection = await connect(self._server.port)
                try:
                    return (await connection.ask(probe)).status == 200
                finally:
                    connection.transport.close()
        return False


async def run(plan: Plan) -> Findings:
    """Measure the peak before and after the overload, as a machine's speed changes, and the overload between them."""
    findings = Findings()
    target = f"/sample?n={BATCH}&seed=18"
    request = (f"{BATCH} samples to npy", write_request("GET", target, accept=NPY))
    async with serving(plan.core, "--queue-limit", str(QUEUE_LIMIT)) as server:
        (exchange,) = await ask_alone(server.port, [request])
        rates = {count: await _rate(server, exchange, count, plan.overload_s / 6, findings) for count in CONNECTIONS}
        best = max(rates, key=rates.__getitem__)
        peak = rates[best]
        log_progress(f"  {peak:.0f} requests a second at most; now {TIMES_CAPACITY} times as many")
        before = await server.settled()
        load, watch = OpenLoop(server.port, exchange, findings), Watch(server)
        watching = asyncio.create_task(watch.run())
        sending = asyncio.create_task(load.run(TIMES_CAPACITY * peak, plan.overload_s))
        await asyncio.sleep(plan.overload_s / 2)
        early = watch.most
        sent = await sending
        watching.cancel()
        after = await server.settled(before)
        middle = (peak + await _rate(server, exchange, best, plan.overload_s / 6, findings)) / 2
        findings.figures = {
            "peak": peak,
            "peak, mean of before and after": middle,
            "seconds": plan.overload_s,
            "sent": sent,
            "times capacity": sent / plan.overload_s / peak,
            "goodput, %": 100 * load.right / plan.overload_s / middle,
            "refused": load.statuses[503],
            "refusals' p50, ms": 1000 * percentile(load.refused_after_s, 0.50),
            "refusals' p99, ms": 1000 * percentile(load.refused_after_s, 0.99),
            "without Retry-After": load.without_retry_after,
            "wrong": load.wrong,
            "lost": load.lost,
            "probes": len(watch.probed_s),
            "probes failed": watch.failed,
            "probes' p99, ms": 1000 * percentile(watch.probed_s, 0.99),
            "probes' slowest, ms": 1000 * percentile(watch.probed_s, 1),
            "MB before": before.rss_mb,
            "MB at most": watch.most.rss_mb,
            "MB above before": watch.most.rss_mb - before.rss_mb,
            "MB above the first half": watch.most.rss_mb - early.rss_mb,
            "MB grown": after.rss_mb - before.rss_mb,
            "descriptors grown": after.descriptors - before.descriptors,
            "tracebacks": server.tracebacks(),
        }
    return findings


async def _rate(server: Server, exchange: Exchange, connections: int, seconds: float, findings: Findings) -> float:
    """Measure right responses per second."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    exchanges = (exchange for _ in iter(lambda: loop.time() < until, False))
    load = ClosedLoop(server.port, exchanges, connections, findings)
    took = await load.run()
    return load.right / took


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that a `share` of the values does not exceed; 0 if there are none."""
    return sorted(values)[max(0, round(share * len(values)) - 1)] if values else 0.0
