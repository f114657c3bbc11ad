"""A closed loop: many connections, each of which sends the next request after the response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress

from tests.soak.client import Connection, Lost, connect
from tests.soak.exchanges import Exchange
from tests.soak.plan import Findings, log_progress

HANGS_AFTER_S = 40
"""Seconds after which a request is given up: more than the service's own deadline of 30 s."""
TELL_EVERY_S = 10


class ClosedLoop:
    """Sends all of `exchanges` on `connections` connections and checks each response."""

    def __init__(
        self, port: int, exchanges: Iterator[Exchange], connections: int, findings: Findings, reopens: int = 0
    ) -> None:
        """After each `reopens` requests one of the connections is closed and opened again."""
        self.sent = self.right = self.wrong = self.lost = self.refused = self.reopened = 0
        self.most_waiting = 0
        """Most requests without a response at one time."""
        self._port = port
        self._exchanges = exchanges
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
        for exchange in self._exchanges:
            self.sent += 1
            try:
                connection = self._connections.get(number)
                if connection is None or not connection.open:
                    self.reopened += connection is not None
                    connection = self._connections[number] = await connect(self._port)
                response = await connection.ask(exchange.request)
            except Lost as lost:
                self.lost += 1
                self._findings.add_problem(f"{exchange.name}: no response, {lost}.")
                continue
            if exchange.matches(response):
                self.right += 1
                self.refused += response.status >= 400
            else:
                self.wrong += 1
                told = response.body[:200] if response.status >= 400 else b"another's"
                self._findings.add_problem(f"{exchange.name}: a wrong response, {response.status}, {told!r}.")
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


async def answered_within(port: int, exchange: Exchange, limit_s: float) -> bool:
    """Does a client with a new connection get the right response in time?"""
    with suppress(Lost, TimeoutError):
        async with asyncio.timeout(limit_s):
            connection = await connect(port)
            try:
                return exchange.matches(await connection.ask(exchange.request))
            finally:
                connection.transport.close()
    return False
