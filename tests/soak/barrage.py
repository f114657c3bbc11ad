"""A hundred thousand bad inputs: each is answered or hung up on within a second, none with a 5xx, no worker dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

from tests.soak.bad_inputs import BadInput, bad_input
from tests.soak.client import Answer, Connection, Lost, connect
from tests.soak.load import answered_within
from tests.soak.plan import Findings, Plan, tell
from tests.soak.questions import ask_alone, small_requests
from tests.soak.server import serving

CALLERS = 16
"""Few, so that it is the input that takes time and not its turn."""
CLIENT_TIMEOUT_S = 0.4
"""The service waits so long for the rest of what has no end, so that even that is over within a second."""
LIMIT_S = 1.0
HUNG_UP = 0
"""In place of a status."""
TELL_EVERY = 20_000


class Barrage:
    """Sends inputs on a number of connections, and keeps what became of them."""

    def __init__(self, port: int, inputs: Iterator[BadInput], findings: Findings) -> None:
        self.statuses: Counter[int] = Counter()
        self.slow = self.unanswered = 0
        self.slowest_s = 0.0
        self._port = port
        self._inputs = inputs
        self._findings = findings

    async def run(self) -> None:
        """Until there are no more."""
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
                answer = await connection.ask(sent.data)
        except TimeoutError:
            self.slow += 1
            connection.give_up("too slow")
            self._findings.complain(f"Bad input {sent.number} ({sent.kind}): nothing within {LIMIT_S:g} s.")
            return
        except Lost as lost:
            self.statuses[HUNG_UP] += 1
            if sent.framed:
                self.unanswered += 1
                self._findings.complain(f"Bad input {sent.number} ({sent.kind}): no answer, {lost}.")
            return
        finally:
            self.slowest_s = max(self.slowest_s, loop.time() - begun)
        self._judge(sent, answer)

    def _judge(self, sent: BadInput, answer: Answer) -> None:
        self.statuses[answer.status] += 1
        if answer.status >= 500:
            self._findings.complain(f"Bad input {sent.number} ({sent.kind}): {answer.status}, {answer.body[:200]!r}.")


async def run(plan: Plan) -> Findings:
    """Beside them a good caller asks, and is answered."""
    findings = Findings()
    async with serving(plan.core, "--client-timeout", str(CLIENT_TIMEOUT_S)) as server:
        questions = await ask_alone(server.port, list(small_requests()))
        workers = server.workers()
        warm_up = Barrage(server.port, map(bad_input, range(plan.bad_inputs // 4)), findings)
        await warm_up.run()
        before = await server.settled()
        barrage = Barrage(server.port, _told(plan.bad_inputs // 4, plan.bad_inputs), findings)
        await barrage.run()
        right = [await answered_within(server.port, question, LIMIT_S) for question in questions]
        after = await server.settled(before)
        statuses = warm_up.statuses + barrage.statuses
        failures = Counter(server.failures())
        for status, count in failures.items():
            findings.complain(f"The access log has {count} answers of status {status}.")
        findings.figures = {
            "bad inputs": plan.bad_inputs,
            **{f"status {status}" if status else "hung up on": statuses[status] for status in sorted(statuses)},
            "5xx": sum(count for status, count in statuses.items() if status >= 500),
            "5xx in the log": failures.total(),
            "slower than 1 s": warm_up.slow + barrage.slow,
            "slowest, s": max(warm_up.slowest_s, barrage.slowest_s),
            "without an answer": warm_up.unanswered + barrage.unanswered,
            "workers lost": len(workers - server.workers()),
            "wrong afterwards": right.count(False),
            "MB grown": after.rss_mb - before.rss_mb,
            "descriptors grown": after.descriptors - before.descriptors,
            "tracebacks": server.tracebacks(),
        }
    return findings


def _told(start: int, stop: int) -> Iterator[BadInput]:
    for number in range(start, stop):
        if number % TELL_EVERY == 0:
            tell(f"  {number:,} bad inputs")
        yield bad_input(number)
