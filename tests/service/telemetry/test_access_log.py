import asyncio
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from service.telemetry.access_log import AccessLog, AccessRecord
from service.telemetry.timing import Timing

WHEN = datetime(2026, 11, 22, 20, 6, 15, 114_900, UTC).timestamp()
TIMING = Timing()
TIMING.queue, TIMING.compute = 0.0001, 0.0009
TRACEPARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
RECORD = AccessRecord(
    WHEN, "10.0.0.7", "POST", b"/decode", "/decode", 200, 21, 880, 0.00125, TIMING, b"a-1", TRACEPARENT
)


def written(
    log_format: Literal["text", "json"], records: list[AccessRecord], capsys: pytest.CaptureFixture[str]
) -> str:
    async def write() -> None:
        log = AccessLog(log_format)
        for exchange in records:
            log.add(exchange)
        assert capsys.readouterr().err == ""  # not one by one
        await asyncio.sleep(0.2)

    asyncio.run(write())
    return capsys.readouterr().err


def test_a_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = written(
        "text", [RECORD, RECORD._replace(status=422, timing=None, traceparent=b"00-4bf9-00-01")], capsys
    ).splitlines()
    here = datetime.fromtimestamp(WHEN).strftime("%Y-%m-%d %H:%M:%S")
    assert first == (
        f"{here},114 INFO    10.0.0.7 POST /decode 200, 21 bytes in, 880 out, 1.2 ms (0.1 queued, 0.9 computed), a-1, "
        "trace 4bf92f3577b34da6a3ce929d0e0e4736"
    )
    assert second.endswith(" 422, 21 bytes in, 880 out, 1.2 ms, a-1")


def test_a_line_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    line: dict[str, Any] = json.loads(written("json", [RECORD], capsys))
    assert line == {
        "time": "2026-11-22T20:06:15.114+00:00",
        "level": "info",
        "logger": "vae-service.access",
        "message": "POST /decode 200",
        "client": "10.0.0.7",
        "method": "POST",
        "path": "/decode",
        "route": "/decode",
        "status": 200,
        "bytes_in": 21,
        "bytes_out": 880,
        "seconds": 0.00125,
        "request_id": "a-1",
        "queue_seconds": 0.0001,
        "compute_seconds": 0.0009,
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_path_cannot_forge_a_line(log_format: Literal["text", "json"], capsys: pytest.CaptureFixture[str]) -> None:
    odd = RECORD._replace(path=b"/a\n2026-11-22 INFO all is well \x1b[2J\xff")
    text = written(log_format, [odd], capsys)
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()


def test_the_last_lines_are_written_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    async def write() -> None:
        log = AccessLog("text")
        log.add(RECORD)
        log.flush()

    asyncio.run(write())
    assert "POST /decode" in capsys.readouterr().err


def test_lines_of_several_processes_stay_whole() -> None:
    """Each writes more than a pipe holds; only what is shorter than PIPE_BUF goes in at once (POSIX, write)."""
    script = """
import asyncio, sys
from service.telemetry.access_log import AccessLog
from tests.service.telemetry.test_access_log import RECORD
async def write():
    log = AccessLog("text")
    for _ in range(3000):
        log.add(RECORD._replace(request_id=sys.argv[1].encode() * 20))
    log.flush()
asyncio.run(write())
"""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe:
        writers = [subprocess.Popen([sys.executable, "-c", script, name], stderr=write) for name in "ab"]
        os.close(write)
        lines = pipe.read().splitlines()
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(lines) == 6000
    assert {re.sub(rb".*, ([ab]+), trace .*", rb"\1", line) for line in lines} == {b"a" * 20, b"b" * 20}
