"""A light HTTP/1.1 client: sends given bytes, one request at a time on a connection, and parses the response."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import NamedTuple, cast

import httptools

HOST = "127.0.0.1"
OTHER_HTTP = (501, 505)
"""Right statuses for HTTP that the service does not have: another version, another transfer coding."""


class Lost(Exception):
    """A request has no complete response; the message says what happened instead."""


class Response(NamedTuple):
    """A response; the names of `fields` are lower case."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes


class Connection(asyncio.Protocol):
    """A connection, created by `connect`."""

    transport: asyncio.Transport

    def __init__(self, *, heads_only: bool = False) -> None:
        """With `heads_only` a response ends after its head, and the connection cannot be used again."""
        self._heads_only = heads_only
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Response] | None = None
        self._fields: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self.open = False
        self.answered = 0
        self.asked_at = 0.0
        """When the last request was written, by the event loop's clock, in seconds."""

    @property
    def port(self) -> int:
        """The local port."""
        port: int = self.transport.get_extra_info("sockname")[1]
        return port

    @property
    def waits(self) -> bool:
        """Is a request without its response?"""
        return self._answer is not None

    async def ask(self, request: bytes) -> Response:
        """Write `request` and wait for its response; raises Lost."""
        if not self.open:
            raise Lost("the connection had been closed")
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self.asked_at = loop.time()
        self.transport.write(request)
        try:
            return await self._answer
        finally:
            self._answer = None

    def give_up(self, reason: str) -> None:
        """Fail the request and abort the connection."""
        self._fail(Lost(reason))
        self.open = False
        self.transport.abort()

    def reset(self) -> None:
        """Abort the connection with RST, so that the system frees its port at once."""
        if self.open:
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._fail(Lost(f"the connection was {'broken off' if exc else 'closed'}"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.give_up(f"the response is not HTTP: {error}")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._heads_only:
            self._end()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._heads_only:
            keeps = self._parser.should_keep_alive()
            self._end()
            if not keeps:
                self.open = False
                self.transport.close()

    def _end(self) -> None:
        status = self._parser.get_status_code()
        fields, self._fields = self._fields, {}
        body, self._body = self._body, []
        if status >= 200 and self._answer is not None and not self._answer.done():
            self.answered += 1
            self._answer.set_result(Response(status, fields, b"".join(body)))

    def _fail(self, lost: Lost) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(lost)


async def connect(port: int, *, heads_only: bool = False) -> Connection:
    """Open a connection; raises Lost where nothing listens."""
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(heads_only=heads_only), HOST, port
        )
    except OSError as error:
        raise Lost(f"no connection: {error.strerror}") from error
    return connection


def write_request(method: str, target: str, body: bytes = b"", **fields: str) -> bytes:
    """Write a whole request; `_` in a field's name stands for `-`."""
    lines = [f"{method} {target} HTTP/1.1", "host: soak"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    if body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
