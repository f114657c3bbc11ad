"""A request of the API: its header fields, its body, and what it charges to the memory budget."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar, TypeVarTuple, Unpack

from starlette.types import Receive, Scope

from service.api.offloading import BYTE_S, INLINE_S, UNPACKED_BYTE_S, Offloader
from service.errors import TooLarge, UnreadableBody
from service.formats.content_encoding import decompress
from service.http.request_head import join_fields
from service.memory_budget import UNCOUNTED, Reservation
from service.telemetry.timing import Timing

EXPANSION = 1000
"""Largest ratio of a decompressed body to a compressed one; deflate has a bound of 1032."""
Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class Request:
    """A request that parses its header fields once, where Starlette's searches them for each field."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self._receive = receive
        self.fields: dict[bytes, bytes] = scope.get("fields") or join_fields(scope["headers"])
        """Header fields by lower-case name; repeated ones are joined."""
        body: bytes | None = scope.get("whole_body")
        self._more = body is None
        self._chunks = [] if body is None else [body]
        self.bytes_received = 0 if body is None else len(body)
        """Bytes of the body so far."""
        self.reservation: Reservation | None = None
        """None while nothing is charged; it is closed once the response is written."""

    def field(self, name: bytes) -> str:
        """Return a header field, empty if it is missing."""
        return self.fields.get(name, b"").decode("latin-1")

    @property
    def timing(self) -> Timing:
        """The time spent in the queue and in computations, for the log and the response."""
        timing: Timing = self.scope["timing"]
        return timing

    @property
    def media_type(self) -> str:
        """Media type of the body, in lower case, without parameters; empty if it is missing."""
        return _media_type(self.fields.get(b"content-type", b""))

    @property
    def awaits_body(self) -> bool:
        """Whether its header announces a body that is still to come."""
        return self._more and (b"content-length" in self.fields or b"transfer-encoding" in self.fields)

    @property
    def memory(self) -> Reservation:
        """The request's charges to the worker's memory budget."""
        if self.reservation is None:
            self.reservation = Reservation(self.scope["app"].state["memory"])
        return self.reservation

    def reserve(self, size: int) -> None:
        """Charge `size` bytes to the worker's memory budget; raises TooLarge or Unavailable."""
        if size > UNCOUNTED:
            self.memory.add(size)

    async def run(
        self, seconds: float, function: Callable[[Unpack[Arguments]], Result], *arguments: *Arguments
    ) -> Result:
        """Call `function` on the event loop, or in a thread if it is estimated to take more than INLINE_S `seconds`."""
        if seconds <= INLINE_S:
            return function(*arguments)
        offloader: Offloader = self.scope["app"].state["offloader"]
        return await offloader.run(seconds, self.memory, function, *arguments)

    async def receive_body(self, limit: int) -> None:
        """Wait until the body is complete, or known to exceed `limit` bytes; raises Unavailable."""
        length = self.fields.get(b"content-length", b"")
        declared = int(length) if length.isdigit() else 0
        while self._more and max(declared, self.bytes_received) <= limit:
            await self._receive_chunk()

    async def read(self, limit: int) -> bytes:
        """Return the body, decompressed.

        Raises TooLarge if it exceeds `limit` bytes, compressed or not; a declared length is enough to know.
        """
        if self._more:
            await self.receive_body(limit)
        if self._more or self.bytes_received > limit:
            raise TooLarge(f"The body is larger than the limit of {limit} bytes.")
        if self.bytes_received > UNCOUNTED:
            self.memory.received(self.bytes_received)
        body = self._chunks[0] if len(self._chunks) == 1 else await self._join()
        encoding = self.fields.get(b"content-encoding", b"").decode("latin-1")
        if not encoding or encoding.lower() == "identity":
            return body
        seconds = min(limit, EXPANSION * len(body)) * UNPACKED_BYTE_S
        return await self.run(seconds, decompress, body, encoding, limit, self.memory)

    async def _join(self) -> bytes:
        with self.memory.hold(self.bytes_received):
            body = await self.run(self.bytes_received * BYTE_S, b"".join, self._chunks)
            self._chunks = [body]
        return body

    async def _receive_chunk(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise UnreadableBody("The client disconnected before the body was complete.")
        chunk: bytes = message.get("body", b"")
        self._chunks.append(chunk)
        self.bytes_received += len(chunk)
        self._more = message.get("more_body", False)
        if self._more and self.bytes_received > UNCOUNTED:
            self.memory.receive(self.bytes_received)


@lru_cache(maxsize=64)
def _media_type(content_type: bytes) -> str:
    return content_type.decode("latin-1").partition(";")[0].strip().lower()
