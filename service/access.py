"""The access log: a line for each request, many written at once."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, NamedTuple

import orjson
from starlette.types import Scope

FLUSH_EVERY_S = 0.1


class Exchange(NamedTuple):
    """A request and its answer."""

    ended: float
    """Seconds since 1970."""
    client: str
    method: str
    path: bytes
    """As it came, percent-encoded, without the query."""
    status: int
    size: int
    """Of the answer's body, bytes."""
    seconds: float

    @classmethod
    def of(cls, scope: Scope, status: int, size: int, seconds: float) -> Exchange:
        """The one that ends now."""
        client = scope["client"]
        return cls(time.time(), client[0] if client else "-", scope["method"], scope["raw_path"], status, size, seconds)


class AccessLog:
    """Gathers exchanges and writes their lines to standard error together, some times a second."""

    def __init__(self, log_format: Literal["text", "json"]) -> None:
        self._line = _text_line if log_format == "text" else _json_line
        self._exchanges: list[Exchange] = []

    def add(self, exchange: Exchange) -> None:
        """Have a line written soon."""
        if not self._exchanges:
            asyncio.get_running_loop().call_later(FLUSH_EVERY_S, self.flush)
        self._exchanges.append(exchange)

    def flush(self) -> None:
        """Write what there is."""
        exchanges, self._exchanges = self._exchanges, []
        sys.stderr.write("".join(map(self._line, exchanges)))
        sys.stderr.flush()


def _printable(path: bytes) -> str:
    """On one line, whatever it holds."""
    text = path.decode("ascii", "backslashreplace")
    return text if text.isprintable() else repr(text)


@lru_cache(maxsize=2)
def _second(ended: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ended))


def _text_line(exchange: Exchange) -> str:
    ended, client, method, path, status, size, seconds = exchange
    return (
        f"{_second(int(ended))},{int(ended % 1 * 1000):03d} INFO    {client} {method} {_printable(path)} "
        f"{status}, {size} bytes in {seconds * 1000:.1f} ms\n"
    )


def _json_line(exchange: Exchange) -> str:
    ended, client, method, path, status, size, seconds = exchange
    line = {
        "time": datetime.fromtimestamp(ended, UTC).isoformat(timespec="milliseconds"),
        "level": "info",
        "logger": "vae-service.access",
        "message": f"{method} {_printable(path)} {status}",
        "client": client,
        "method": method,
        "path": _printable(path),
        "status": status,
        "bytes": size,
        "seconds": round(seconds, 6),
    }
    return orjson.dumps(line).decode() + "\n"
