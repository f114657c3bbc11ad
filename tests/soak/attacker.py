"""Sends attacks and collects the statuses of the responses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import httptools

from tests.soak.attack_requests import Attack
from tests.soak.client import HOST

LIMIT_S = 60
"""Seconds to wait for the responses to an attack: twice the service's own deadline."""


class Outcome(NamedTuple):
    """The result of an attack on one connection."""

    statuses: tuple[int, ...]
    """Statuses of complete responses, at most as many as the attack expects."""
    lost: str
    """Why there are fewer responses than expected; empty otherwise."""
    seconds: float
    """Time until the last response, in seconds."""
    hung: bool = False
    """Whether the connection was still open after the time limit."""
    without_retry_after: int = 0
    """Responses with status 503 and without Retry-After."""

    def fault(self, attack: Attack) -> str:
        """What is wrong with the result; empty if nothing is."""
        if wrong := [status for status in self.statuses if status not in attack.statuses]:
            return f"{wrong[0]} (expected {', '.join(map(str, sorted(attack.statuses)))})"
        if self.lost and (attack.framed or self.hung):
            return f"{len(self.statuses)} of {attack.answers} answers: {self.lost}"
        return ""


class _Collector(asyncio.Protocol):
    """Parses responses and keeps only their statuses."""

    def __init__(self, attack: Attack, data: bytes) -> None:
        self.statuses: list[int] = []
        self.without_retry_after = 0
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._attack = attack
        self._data = data
        self._parser = httptools.HttpResponseParser(self)
        self._says_when = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the connection was reset" if exc else "the connection was closed")

    def data_received(self, data: bytes) -> None:
        if not self.ended.done():
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as error:
                self._end(f"the response is not HTTP: {error}")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._says_when = self._says_when or name.lower() == b"retry-after"

    def on_headers_complete(self) -> None:
        if self._attack.is_head:
            self._add()

    def on_message_complete(self) -> None:
        if not self._attack.is_head:
            self._add()

    def _add(self) -> None:
        if (status := self._parser.get_status_code()) >= 200 and not self.ended.done():
            self.statuses.append(status)
            self.without_retry_after += status == 503 and not self._says_when
            self._says_when = False
            if len(self.statuses) == self._attack.answers:
                self._end("")

    def _end(self, lost: str) -> None:
        if not self.ended.done():
            self.ended.set_result(lost)


async def send(port: int, attack: Attack, limit_s: float = LIMIT_S) -> Outcome:
    """Send an attack on a new connection and wait for the responses."""
    (outcome,) = await send_at_once(port, attack, 1, limit_s)
    return outcome


async def send_at_once(port: int, attack: Attack, times: int, limit_s: float = LIMIT_S) -> list[Outcome]:
    """Send an attack on several connections at once."""
    data = await asyncio.to_thread(
        lambda: attack.data
    )  # building it can take a second, in a thread so that other clients go on
    return list(await asyncio.gather(*(_send(port, attack, data, limit_s) for _ in range(times))))


async def _send(port: int, attack: Attack, data: bytes, limit_s: float) -> Outcome:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        transport, collector = await loop.create_connection(lambda: _Collector(attack, data), HOST, port)
    except OSError as error:
        return Outcome((), f"no connection: {error.strerror}", loop.time() - begun)
    try:
        async with asyncio.timeout(limit_s) as limit:
            lost = await collector.ended
    except TimeoutError:
        lost = f"nothing more within {limit_s:g} s"
    finally:
        transport.abort()
    seconds = loop.time() - begun
    return Outcome(tuple(collector.statuses), lost, seconds, limit.expired(), collector.without_retry_after)


async def send_all(
    port: int, attacks: Sequence[Attack], clients: int, on_outcome: Callable[[Attack, Outcome], None]
) -> None:
    """Send each attack once, several at a time."""
    waiting = iter(attacks)

    async def send_on() -> None:
        for attack in waiting:
            on_outcome(attack, await send(port, attack))

    await asyncio.gather(*(send_on() for _ in range(clients)))
