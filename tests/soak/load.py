"""A closed loop: many connections, each of which sends the next request after the response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress

from tests.soak.client import Connection, Lost, connect
from tests.soak.plan import Findings, log_progress
from tests.soak.questions import Question

HANGS_AFTER_S = 40
"""Seconds after which a request is given up: more than the service's own deadline of 30 s."""
TELL_EVERY_S = 10


class ClosedLoop:
    """Sends all of `questions` on `connections` connections and checks each response."""

    def __init__(
        self, port: int, questions: Iterator[Question], connections: int, findings: Findings, reopens: int = 0
    ) -> None:
        """After each `reopens` requests one of the connections is closed and opened again."""
        self.sent = self.right = self.wrong = self.lost = self.refused = self.reopened = 0
        self.most_waiting = 0
        """Most requests without a response at one time."""
        self._port = port
        self._questions = questions
        self._count = connections
        self._findings = findings
        self._reopens = reopens
        self._connections: dict[int, Connection] = {}

    async def run(self) -> float:
        """Send all requests; returns the seconds that they took."""
        begun = time.monotonic()
        watch = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._ask_on(number) for number in range(self._count)))
        watch.cancel()
        for connection in self._connections.values():
            connection.transport.close()
        return time.monotonic() - begun

    async def _ask_on(self, number: int) -> None:
        for question in self._questions:
            self.sent += 1
            try:
                connection = self._connections.get(number)
                if connection is None or not connection.open:
                    self.reopened += connection is not None
                    connection = self._connections[number] = await connect(self._port)
                answer = await connection.ask(question.request)
            except Lost as lost:
                self.lost += 1
                self._findings.add_problem(f"{question.name}: no answer, {lost}.")
                continue
            if question.is_answered_by(answer):
                self.right += 1
                self.refused += answer.status >= 400
            else:
                self.wrong += 1
                told = answer.body[:200] if answer.status >= 400 else b"another's"
                self._findings.add_problem(f"{question.name}: a wrong answer, {answer.status}, {told!r}.")
            if self._reopens and self.sent % self._reopens == 0:
                connection.transport.close()
                connection.open = False

    async def _watch(self) -> None:
        """Give up requests that hang, and log the progress."""
        loop = asyncio.get_running_loop()
        told = loop.time()
        while True:
            await asyncio.sleep(1)
            now = loop.time()
            self.most_waiting = max(self.most_waiting, sum(each.waits for each in self._connections.values()))
            for connection in self._connections.values():
                if connection.waits and now - connection.asked_at > HANGS_AFTER_S:
                    connection.give_up(f"it hung for {HANGS_AFTER_S} s")
            if now - told > TELL_EVERY_S:
                told = now
                log_progress(f"  {self.sent:,} requests")


async def answered_within(port: int, question: Question, limit_s: float) -> bool:
    """Does a client with a new connection get the right response in time?"""
    with suppress(Lost, TimeoutError):
        async with asyncio.timeout(limit_s):
            connection = await connect(port)
            try:
                return question.is_answered_by(await connection.ask(question.request))
            finally:
                connection.transport.close()
    return False
