"""The access log: a line for each request, many written at once."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import orjson
from starlette.types import Scope

from service.batching import Timing

FLUSH_EVERY_S = 0.1
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""W3C Trace Context; the group is the trace's id."""


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
    timing: Timing | None
    """Where something was computed."""
    request_id: bytes
    trace_id: bytes
    """Empty where the caller did not say."""

    @classmethod
    def of(cls, scope: Scope, status: int, size: int, seconds: float) -> Exchange:
        """The one that ends now."""
        return cls(
            time.time(),
            client[0] if (client := scope["client"]) else "-",
            scope["method"],
            scope["raw_path"],
            status,
            size,
            seconds,
            scope.get("timing"),
            scope["request_id"],
            _trace_id(scope["headers"]),
        )


class AccessLog:
    """Gathers the lines of exchanges and writes them to standard error together, some times a second."""

    def __init__(self, log_format: Literal["text", "json"]) -> None:
        self._line = _text_line if log_format == "text" else _json_line
        self._lines: list[str] = []

    def add(self, exchange: Exchange) -> None:
        """Have a line written soon."""
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_EVERY_S, self.flush)
        self._lines.append(self._line(exchange))

    def flush(self) -> None:
        """Write what there is."""
        lines, self._lines = self._lines, []
        sys.stderr.write("".join(lines))
        sys.stderr.flush()


def _trace_id(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    for name, value in fields:
        if name == b"traceparent":
            match = TRACEPARENT.fullmatch(value)
            return match[1] if match else b""
    return b""


@lru_cache(maxsize=64)
def _printable(path: bytes) -> str:
    """On one line, whatever it holds."""
    text = path.decode("ascii", "backslashreplace")
    return text if text.isprintable() else repr(text)


@lru_cache(maxsize=2)
def _second(ended: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ended))


def _text_line(exchange: Exchange) -> str:
    ended, client, method, path, status, size, seconds, timing, request_id, trace_id = exchange
    spent = (
        f" ({timing.queue * 1000:.1f} queued, {timing.compute * 1000:.1f} computed)"
        if timing and timing.compute
        else ""
    )
    return (
        f"{_second(int(ended))},{int(ended % 1 * 1000):03d} INFO    {client} {method} {_printable(path)} "
        f"{status}, {size} bytes in {seconds * 1000:.1f} ms{spent}, {request_id.decode()}"
        f"{f', trace {trace_id.decode()}' if trace_id else ''}\n"
    )


def _json_line(exchange: Exchange) -> str:
    ended, client, method, path, status, size, seconds, timing, request_id, trace_id = exchange
    line: dict[str, Any] = {
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
        "request_id": request_id.decode(),
    }
    if timing and timing.compute:
        line |= {"queue_seconds": round(timing.queue, 6), "compute_seconds": round(timing.compute, 6)}
    if trace_id:
        line["trace_id"] = trace_id.decode()
    return orjson.dumps(line).decode() + "\n"
