"""The access log: a line per request, written in batches."""

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

FLUSH_INTERVAL_S = 0.1
"""Seconds between writes to standard error."""
LINES_PER_BATCH = 32
"""Lines that are formatted at once: in a batch each takes half the time, but hundreds would delay requests."""
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""W3C Trace Context; the group is the trace id."""


class AccessRecord(NamedTuple):
    """A request and its response."""

    ended: float
    """End of the response, seconds since 1970."""
    client: str
    method: str
    path: bytes
    """As the client sent it, percent-encoded, without the query string."""
    route: str
    """The route's path as a metric's label."""
    status: int
    bytes_in: int
    """Size of the request body."""
    bytes_out: int
    """Size of the response body."""
    seconds: float
    timing: Timing | None
    """None if nothing was computed."""
    request_id: bytes
    traceparent: bytes
    """As the client sent it, empty if it did not."""
    model: str = ""
    """Name of the model that answered, empty if none did."""
    version: str = ""


class AccessLog:
    """Collects records, formats them in batches, and writes to standard error ten times a second."""

    def __init__(self, log_format: Literal["text", "json"]) -> None:
        self._line = _text_line if log_format == "text" else _json_line
        self._records: list[AccessRecord] = []
        self._chunks: list[bytes] = []

    def add(self, record: AccessRecord) -> None:
        """Write a line for `record` soon."""
        if not (self._records or self._chunks):
            asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S, self.flush)
        self._records.append(record)
        if len(self._records) == LINES_PER_BATCH:
            self._make_lines()

    def flush(self) -> None:
        """Write all lines, in chunks of at most PIPE_BUF bytes, which several processes can write to a pipe whole."""
        self._make_lines()
        chunks, self._chunks = self._chunks, []
        sys.stderr.flush()
        for chunk in chunks:
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()

    def _make_lines(self) -> None:
        lines = "".join(map(self._line, self._records)).encode()
        self._records.clear()
        while lines:
            stop = len(lines)
            if stop > select.PIPE_BUF:
                stop = lines.rfind(b"\n", 0, select.PIPE_BUF) + 1 or lines.index(b"\n") + 1
            self._chunks.append(lines[:stop])
            lines = lines[stop:]


def _trace_id(traceparent: bytes) -> str:
    match = TRACEPARENT.fullmatch(traceparent)
    return match[1].decode() if match else ""


@lru_cache(maxsize=64)
def printable(path: bytes) -> str:
    """Return `path` on one line, with control characters escaped."""
    text = path.decode("ascii", "backslashreplace")
    return text if text.isprintable() else repr(text)


@lru_cache(maxsize=2)
def _second(ended: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ended))


_TEXT = "%s,%03d INFO    %s %s %s %d, %d bytes in, %d out, %.1f ms, %s%s%s\n"
_COMPUTED = _TEXT.replace("ms", "ms (%.1f queued, %.1f computed)")


def _text_line(record: AccessRecord) -> str:
    ended, client, method, path, _, status, bytes_in, bytes_out, seconds, timing, request_id, traceparent, *of = record
    second = int(ended)
    at, ms, took, name = _second(second), (ended - second) * 1000, seconds * 1000, request_id.decode()
    trace = f", trace {trace_id}" if traceparent and (trace_id := _trace_id(traceparent)) else ""
    model = ", model {}/{}".format(*of) if of[0] else ""
    if not (timing and timing.compute):
        return _TEXT % (at, ms, client, method, printable(path), status, bytes_in, bytes_out, took, name, trace, model)
    computed = timing.queue * 1000, timing.compute * 1000
    return _COMPUTED % (
        at,
        ms,
        client,
        method,
        printable(path),
        status,
        bytes_in,
        bytes_out,
        took,
        *computed,
        name,
        trace,
        model,
    )


def _json_line(record: AccessRecord) -> str:
    ended, client, method, path, route, status, bytes_in, bytes_out, seconds, timing, request_id, traceparent, *of = (
        record
    )
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
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "seconds": round(seconds, 6),
        "request_id": request_id.decode(),
    }
    if of[0]:
        line["model"], line["version"] = of
    if timing and timing.compute:
        line |= {"queue_seconds": round(timing.queue, 6), "compute_seconds": round(timing.compute, 6)}
    if trace_id := _trace_id(traceparent):
        line["trace_id"] = trace_id
    return orjson.dumps(line).decode() + "\n"
