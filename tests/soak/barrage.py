"""A hundred thousand bad inputs: each is handled within a second, without a 5xx and without the end of a worker.

Then attacks, several at a time and many of one kind at once, while /livez of each worker is asked.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvloop

from tests.soak import pillow_images
from tests.soak.attack_requests import Attack
from tests.soak.attacker import Outcome, send_all, send_at_once
from tests.soak.attacks import attacks
from tests.soak.bad_inputs import BadInput, bad_input
from tests.soak.client import OTHER_HTTP, Connection, Lost, Response, connect, write_request
from tests.soak.exchanges import ask_alone, small_requests
from tests.soak.load import answered_within
from tests.soak.plan import Figures, Findings, Plan, log_progress
from tests.soak.server import Server, foreign_lines, serving

CALLERS = 16
"""Few connections, so that the time measured is the input's and not spent in a queue."""
CLIENT_TIMEOUT_S = 0.4
"""Seconds for which the service waits for the rest of an incomplete request: less than the limit of a second."""
LIMIT_S = 1.0
HUNG_UP = 0
"""Stands for the status of a request whose connection was closed."""
TELL_EVERY = 20_000
ATTACKERS = 8
"""Attacks in flight at a time."""
LIVEZ = write_request("GET", "/livez")
LIVEZ_EVERY_S = 0.05
LIVEZ_LIMIT_S = 15
"""Seconds after which a request for /livez is given up and counted with this time."""
CONNECTIONS_TRIED = 64
"""Connections opened to find one to each worker: the system distributes them at random."""


class Barrage:
    """Sends inputs on a number of connections and records the results."""

    def __init__(self, port: int, inputs: Iterator[BadInput], findings: Findings) -> None:
        self.statuses: Counter[int] = Counter()
        self.slow = self.unanswered = 0
        self.slowest_s = 0.0
        self._port = port
        self._inputs = inputs
        self._findings = findings

    async def run(self) -> None:
        """Send all inputs."""
        await asyncio.gather(*(self._send_on() for _ in range(CALLERS)))

    async def _send_on(self) -> None:
        connection: Connection | None = None
        for sent in self._inputs:
            if sent.framed and (connection is None or not connection.open):
                connection = await connect(self._port)
            taken = connection if sent.framed and connection else await connect(self._port, heads_only=True)
            await self._send(sent, taken)
            if not sent.framed:
                taken.reset()
        if connection:
            connection.transport.close()

    async def _send(self, sent: BadInput, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(LIMIT_S):
                response = await connection.ask(sent.data)
        except TimeoutError:
            self.slow += 1
            connection.give_up("too slow")
            self._findings.add_problem(f"Bad input {sent.number} ({sent.kind}): nothing within {LIMIT_S:g} s.")
            return
        except Lost as lost:
            self.statuses[HUNG_UP] += 1
            if sent.framed:
                self.unanswered += 1
                self._findings.add_problem(f"Bad input {sent.number} ({sent.kind}): no response, {lost}.")
            return
        finally:
            self.slowest_s = max(self.slowest_s, loop.time() - begun)
        self._judge(sent, response)

    def _judge(self, sent: BadInput, response: Response) -> None:
        self.statuses[response.status] += 1
        if response.status >= 500 and response.status not in OTHER_HTTP:
            self._findings.add_problem(
                f"Bad input {sent.number} ({sent.kind}): {response.status}, {response.body[:200]!r}."
            )


class Probes:
    """Requests /livez from each worker, on a connection that it serves, and from any worker on new connections.

    Runs in another process, as building an attack can block an event loop for a second.
    """

    def __init__(self, server: Server) -> None:
        self._figures = multiprocessing.get_context("fork").Array("d", 3, lock=False)
        self._server = server

    @property
    def asked(self) -> int:
        """Number of requests."""
        return int(self._figures[0])

    @property
    def failed(self) -> int:
        """Number of requests without a response of status 200."""
        return int(self._figures[1])

    @property
    def slowest_s(self) -> float:
        """Longest time until a response, in seconds."""
        return float(self._figures[2])

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send requests while the body of the `with` statement runs."""
        process = multiprocessing.get_context("fork").Process(target=lambda: uvloop.run(self._ask()))
        process.start()
        try:
            yield
        finally:
            process.kill()
            process.join()

    async def _ask(self) -> None:
        connections = await self._one_to_each_worker()
        await asyncio.gather(self._ask_on(None), *(self._ask_on(connection) for connection in connections))

    async def _one_to_each_worker(self) -> list[Connection]:
        workers = len(self._server.workers())
        found: dict[int, Connection] = {}
        for _ in range(CONNECTIONS_TRIED):
            connection = await connect(self._server.port)
            await connection.ask(LIVEZ)
            (worker,) = self._server.servers_of([connection.port]).values()
            if found.setdefault(worker, connection) is not connection:
                connection.transport.close()
            if len(found) == workers:
                break
        return list(found.values())

    async def _ask_on(self, connection: Connection | None) -> None:
        """Use this connection until it is closed, then new ones."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            asked = connection if connection and connection.open else None
            well = False
            with suppress(Lost, TimeoutError):
                async with asyncio.timeout(LIVEZ_LIMIT_S):
                    asked = asked or await connect(self._server.port)
                    well = (await asked.ask(LIVEZ)).status == 200
            if asked and asked is not connection:
                asked.transport.close()
            self._figures[0] += 1
            self._figures[1] += not well
            self._figures[2] = max(self._figures[2], loop.time() - begun)
            await asyncio.sleep(LIVEZ_EVERY_S)


async def attack(plan: Plan, findings: Findings) -> Figures:
    """Send each attack once, several at a time; then the floods, from many clients at once."""
    statuses: Counter[int] = Counter()
    sent = wrong = 0

    def judge(attack: Attack, outcome: Outcome) -> None:
        nonlocal sent, wrong
        sent += 1
        statuses.update(outcome.statuses)
        if fault := outcome.fault(attack):
            wrong += 1
            findings.add_problem(f"{attack.name}: {fault}.")

    chosen = [each for each in attacks() if each.brief or not plan.brief_attacks]
    async with serving(plan.core) as server:
        workers = server.workers()
        probes = Probes(server)
        with probes.running():
            await send_all(server.port, chosen, ATTACKERS, judge)
            log_progress(f"  {sent:,} attacks; /livez took at most {1000 * probes.slowest_s:.0f} ms")
            for each in chosen:
                if each.times > 1:
                    for outcome in await send_at_once(server.port, each, min(each.times, plan.attackers)):
                        judge(each, outcome)
            log_progress(f"  {sent:,} attacks with floods; /livez took at most {1000 * probes.slowest_s:.0f} ms")
            images = await pillow_images.attacks(findings) if plan.pillow_images else []
            await send_all(server.port, images, ATTACKERS, judge)
        foreign = foreign_lines(server.pinned.log_file)
        for line in foreign:
            findings.add_problem(f"This is no line of the log: {line[:200]}")
        return {
            "attacks": sent,
            "of them images of Pillow's tests": len(images),
            "attacks answered wrongly": wrong,
            "attacks, 5xx but 503": sum(
                count for status, count in statuses.items() if status >= 500 and status not in (503, *OTHER_HTTP)
            ),
            "attacks, 503": statuses[503],
            "attacks, /livez asked": probes.asked,
            "attacks, /livez failed": probes.failed,
            "attacks, slowest /livez, ms": 1000 * probes.slowest_s,
            "attacks, workers lost": len(workers - server.workers()),
            "attacks, lines that are not the log's": len(foreign),
            "attacks, tracebacks": server.tracebacks(),
        }


async def run(plan: Plan) -> Findings:
    """Send the bad inputs while a client with valid requests gets its responses."""
    findings = Findings()
    attacked = await attack(plan, findings)
    async with serving(plan.core, "--client-timeout", str(CLIENT_TIMEOUT_S)) as server:
        exchanges = await ask_alone(server.port, list(small_requests()))
        workers = server.workers()
        warm_up = Barrage(server.port, map(bad_input, range(plan.bad_inputs // 4)), findings)
        await warm_up.run()
        before = await server.settled()
        barrage = Barrage(server.port, _told(plan.bad_inputs // 4, plan.bad_inputs), findings)
        await barrage.run()
        right = [await answered_within(server.port, exchange, LIMIT_S) for exchange in exchanges]
        after = await server.settled(before)
        statuses = warm_up.statuses + barrage.statuses
        failures = Counter(server.failures())
        for status, count in failures.items():
            findings.add_problem(f"The access log has {count} answers of status {status}.")
        findings.figures = {
            "bad inputs": plan.bad_inputs,
            **{f"status {status}" if status else "hung up on": statuses[status] for status in sorted(statuses)},
            "5xx": sum(count for status, count in statuses.items() if status >= 500 and status not in OTHER_HTTP),
            "5xx in the log": failures.total(),
            "slower than 1 s": warm_up.slow + barrage.slow,
            "slowest, s": max(warm_up.slowest_s, barrage.slowest_s),
            "without a response": warm_up.unanswered + barrage.unanswered,
            "workers lost": len(workers - server.workers()),
            "wrong afterwards": right.count(False),
            "MB grown": after.rss_mb - before.rss_mb,
            "descriptors grown": after.descriptors - before.descriptors,
            "tracebacks": server.tracebacks(),
            **attacked,
        }
    return findings


def _told(start: int, stop: int) -> Iterator[BadInput]:
    for number in range(start, stop):
        if number % TELL_EVERY == 0:
            log_progress(f"  {number:,} bad inputs")
        yield bad_input(number)
