"""The access log: a line for each request, many written at once."""

from __future__ import annotations

import asyncio
import re
import select
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import orjson

from service.telemetry.timing import Timing

FLUSH_EVERY_S = 0.1
TOGETHER = 32
"""Lines made in one go: one of many takes half the time of one alone, and hundreds would keep a caller waiting."""
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
    route: str
    """What it is counted as."""
    status: int
    received: int
    """Bytes of the request's body."""
    size: int
    """Bytes of the answer's body."""
    seconds: float
    timing: Timing | None
    """Where something was computed."""
    request_id: bytes
    traceparent: bytes
    """As the caller sent it; empty where it did not."""


class AccessLog:
    """Gathers exchanges, makes their lines some at a time, and writes those to standard error some times a second."""

    def __init__(self, log_format: Literal["text", "json"]) -> None:
        self._line = _text_line if log_format == "text" else _json_line
        self._exchanges: list[Exchange] = []
        self._pieces: list[bytes] = []

    def add(self, exchange: Exchange) -> None:
        """Have a line written soon."""
        if not (self._exchanges or self._pieces):
            asyncio.get_running_loop().call_later(FLUSH_EVERY_S, self.flush)
        self._exchanges.append(exchange)
        if len(self._exchanges) == TOGETHER:
            self._make_lines()

    def flush(self) -> None:
        """Write what there is, in pieces that no other process's lines get into, where it is a pipe (PIPE_BUF)."""
        self._make_lines()
        pieces, self._pieces = self._pieces, []
        sys.stderr.flush()
        for piece in pieces:
            sys.stderr.buffer.write(piece)
            sys.stderr.buffer.flush()

    def _make_lines(self) -> None:
        lines = "".join(map(self._line, self._exchanges)).encode()
        self._exchanges.clear()
        while lines:
            stop = len(lines)
            if stop > select.PIPE_BUF:
                stop = lines.rfind(b"\n", 0, select.PIPE_BUF) + 1 or lines.index(b"\n") + 1
            self._pieces.append(lines[:stop])
            lines = lines[stop:]


def _trace_id(traceparent: bytes) -> str:
    match = TRACEPARENT.fullmatch(traceparent)
    return match[1].decode() if match else ""


@lru_cache(maxsize=64)
def printable(path: bytes) -> str:
    """On one line, whatever it holds."""
    text = path.decode("ascii", "backslashreplace")
    return text if text.isprintable() else repr(text)


@lru_cache(maxsize=2)
def _second(ended: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ended))


_TEXT = "%s,%03d INFO    %s %s %s %d, %d bytes in, %d out, %.1f ms, %s%s\n"
_COMPUTED = _TEXT.replace("ms", "ms (%.1f queued, %.1f computed)")


def _text_line(exchange: Exchange) -> str:
    ended, client, method, path, _, status, received, size, seconds, timing, request_id, traceparent = exchange
    second = int(ended)
    at, ms, took, name = _second(second), (ended - second) * 1000, seconds * 1000, request_id.decode()
    trace = f", trace {trace_id}" if traceparent and (trace_id := _trace_id(traceparent)) else ""
    if not (timing and timing.compute):
        return _TEXT % (at, ms, client, method, printable(path), status, received, size, took, name, trace)
    computed = timing.queue * 1000, timing.compute * 1000
    return _COMPUTED % (at, ms, client, method, printable(path), status, received, size, took, *computed, name, trace)


def _json_line(exchange: Exchange) -> str:
    ended, client, method, path, route, status, received, size, seconds, timing, request_id, traceparent = exchange
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(ended, UTC).isoformat(timespec="milliseconds"),
        "level": "info",
        "logger": "vae-service.access",
        "message": f"{method} {printable(path)} {status}",
        "client": client,
        "method": method,
        "path": printable(path),
        "route": route,
        "status": status,
        "bytes_in": received,
        "bytes_out": size,
        "seconds": round(seconds, 6),
        "request_id": request_id.decode(),
    }
    if timing and timing.compute:
        line |= {"queue_seconds": round(timing.queue, 6), "compute_seconds": round(timing.compute, 6)}
    if trace_id := _trace_id(traceparent):
        line["trace_id"] = trace_id
    return orjson.dumps(line).decode() + "\n"
