"""Responses that are written while they are computed."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError

logger = logging.getLogger("vae-service")


class StreamedResponse(Response):
    """A response whose body comes in pieces and whose length is not known before its end.

    It exists once its first piece does, so that an error until then has its status. After a later one the connection
    is closed without the last chunk of the body, by which the client knows that it is not whole (RFC 9112, section 8).
    """

    slot: AbstractContextManager[object]
    """The request's slot in the queue, which it leaves after the last piece."""
    report: Callable[[Exception], ServiceError]
    """Counts an error after the first piece, and says what it is."""

    def __init__(
        self, first: bytes, rest: AsyncGenerator[bytes], media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.body = b""
        self.media_type = media_type
        self.status_code = 200
        self.background = None
        self.raw_headers = [(b"content-type", media_type.encode())]
        self.raw_headers += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self.size = 0
        """Bytes of the body that were written."""
        self._first = first
        self._rest = rest

    @classmethod
    async def begin(
        cls, pieces: AsyncGenerator[bytes], media_type: str, headers: Mapping[str, str] | None = None
    ) -> StreamedResponse:
        """Return the response of `pieces`, once the first of them is computed."""
        return cls(await anext(pieces), pieces, media_type, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            with ExitStack() as stack:
                stack.push(self.slot)  # it is entered already
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async with aclosing(self._rest) as pieces:
                    if scope["method"] != "HEAD":  # whose response has no body: the rest need not be computed
                        await self._send(self._first, send)
                        async for piece in pieces:
                            await self._send(piece, send)
                await send({"type": "http.response.body", "body": b""})
        except Exception as error:
            name, detail = scope["request_id"].decode(), self.report(error).detail
            logger.warning("The response to the request %s is cut off after %d bytes: %s", name, self.size, detail)

    async def _send(self, piece: bytes, send: Send) -> None:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        self.size += len(piece)
