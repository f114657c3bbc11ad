"""A request of the API, read at the speed of its handlers."""

from __future__ import annotations

import asyncio
from functools import lru_cache

from starlette.requests import Request
from starlette.types import Receive, Scope

from service.admission import Place
from service.batching import Timing
from service.encodings import decompress
from service.errors import TooLarge, UnreadableBody


class Call(Request):
    """Starlette's request, its header fields and its body read in one go."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope  # of Starlette's own attributes, those that this service's handlers reach
        self._receive = receive
        headers = scope["headers"]
        self.fields: dict[bytes, bytes] = dict(headers)
        """Header fields by lower-case name; those that came several times are joined (RFC 9110, section 5.3)."""
        if len(self.fields) < len(headers):
            self.fields = {}
            for name, value in headers:
                self.fields[name] = self.fields[name] + b", " + value if name in self.fields else value
        length = self.fields.get(b"content-length", b"")
        self.came = 0
        """Bytes of the body, as yet."""
        self._declared = int(length) if length.isdigit() else 0
        self._chunks: list[bytes] = []
        self._more = True
        if (body := scope.get("whole_body")) is not None:
            self._hold(body, more=False)

    def field(self, name: bytes) -> str:
        """A header field, empty where it did not come."""
        return self.fields.get(name, b"").decode("latin-1")

    @property
    def timing(self) -> Timing:
        """Where its time goes, for the log and the answer."""
        timing: Timing = self.scope["timing"]
        return timing

    @property
    def media_type(self) -> str:
        """That of the body, lower case, without parameters; empty where it did not come."""
        return _media_type(self.fields.get(b"content-type", b""))

    @property
    def awaits_body(self) -> bool:
        """Is some of its body still to come, by what its head tells?"""
        return self._more and (b"content-length" in self.fields or b"transfer-encoding" in self.fields)

    async def arrive(self, limit: int, place: Place) -> None:
        """Wait until the body is whole, or known to be of more than `limit` bytes; `place` holds what came of it."""
        while self._more and max(self._declared, self.came) <= limit:
            await self._take_in()
            if self._more:
                place.hold(len(self._chunks[-1]))

    async def read(self, limit: int) -> bytes:
        """The body, decompressed. Raises TooLarge for one of more than `limit` bytes, before or after.

        Its declared length is enough to know, where it has one.
        """
        while self._more and max(self._declared, self.came) <= limit:
            await self._take_in()
        if max(self._declared, self.came) > limit:
            raise TooLarge(f"The body is larger than the {limit} bytes that are taken.")
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        encoding = self.fields.get(b"content-encoding", b"").decode("latin-1")
        if not encoding or encoding.lower() == "identity":
            return body
        return await asyncio.to_thread(decompress, body, encoding, limit)

    async def _take_in(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise UnreadableBody("The caller hung up before the body was whole.")
        self._hold(message.get("body", b""), more=message.get("more_body", False))

    def _hold(self, chunk: bytes, *, more: bool) -> None:
        self._chunks.append(chunk)
        self.came += len(chunk)
        self._more = more


@lru_cache(maxsize=64)
def _media_type(content_type: bytes) -> str:
    return content_type.decode("latin-1").partition(";")[0].strip().lower()
