"""granian with an application of RSGI, its own interface: what is parsed in one turn of the event loop is one batch.

granian --interface rsgi benchmarks.contenders.rsgi:app
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from benchmarks.contenders.onnx_digits import decode, load_backend

HEADERS = [("content-type", "image/png")]


class Decoder:
    """One request each, checked no further than that it is JSON."""

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._backend = load_backend()
        self._pending: list[tuple[list[float], asyncio.Future[bytes]]] = []

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        z = orjson.loads(await protocol())["z"]
        image = self._loop.create_future()
        if not self._pending:
            self._loop.call_soon(self._compute)
        self._pending.append((z, image))
        protocol.response_bytes(200, HEADERS, await image)

    def _compute(self) -> None:
        batch, self._pending = self._pending, []
        images = decode(self._backend, [z for z, _ in batch])
        for (_, future), image in zip(batch, images, strict=True):
            if not future.done():
                future.set_result(image)


app = Decoder()
