"""Clients that send requests without a pause, and connect again when their connection is closed."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import NamedTuple

from tests.soak.client import Connection, Lost, connect
from tests.soak.exchanges import Exchange


class Failure(NamedTuple):
    """A request without a response; times are the event loop's, in seconds."""

    port: int
    """The client's port; 0 if there was no connection."""
    asked_at: float
    failed_at: float
    reason: str


class Clients:
    """A number of clients with one connection each, which send one request at a time."""

    def __init__(self, port: int, exchanges: list[Exchange], number: int) -> None:
        self.right = 0
        self.wrong: list[str] = []
        """Requests with a wrong response, and the response."""
        self.refused = 0
        """Responses with status 503 and Retry-After."""
        self.failures: list[Failure] = []
        self._port = port
        self._exchanges = exchanges
        self._connections: list[Connection | None] = [None] * number
        self._stopped = False

    async def run(self) -> None:
        """Send requests until `stop`, and wait for the last response."""
        await asyncio.gather(*(self._ask_on(seat) for seat in range(len(self._connections))))
        for connection in self._connections:
            if connection:
                connection.transport.close()

    def stop(self) -> None:
        """Send no more requests."""
        self._stopped = True

    @property
    def ports(self) -> list[int]:
        """The clients' ports."""
        return [connection.port for connection in self._connections if connection and connection.open]

    def waiting_since(self, then: float) -> list[Connection]:
        """Connections with a request that was sent before `then` and has no response."""
        return [caller for caller in self._connections if caller and caller.waits and caller.asked_at < then]

    async def _ask_on(self, seat: int) -> None:
        loop = asyncio.get_running_loop()
        for number in count(seat):
            if self._stopped:
                return
            exchange = self._exchanges[number % len(self._exchanges)]
            connection, port, asked_at = self._connections[seat], 0, loop.time()
            try:
                if connection is None or not connection.open:
                    connection = self._connections[seat] = await connect(self._port)
                port, asked_at = connection.port, loop.time()
                response = await connection.ask(exchange.request)
            except Lost as lost:
                self.failures.append(Failure(port, asked_at, loop.time(), str(lost)))
                if not port:
                    await asyncio.sleep(0.01)  # nothing listens
                continue
            if exchange.matches(response):
                self.right += 1
            elif response.status == 503 and b"retry-after" in response.fields:
                self.refused += 1
            else:
                self.wrong.append(f"{exchange.name}: {response.status}, {response.body[:200]!r}")
