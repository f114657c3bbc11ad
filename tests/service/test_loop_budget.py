"""No request keeps the event loop for longer than 250 ms: each is sent to a real service whose loop is timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.live import LiveServer, live_server
from tests.soak import heartbeat
from tests.soak.attack_requests import Attack
from tests.soak.attacks import attack, attacks
from tests.soak.heartbeat import Clock
from tests.soak.loop import measure
from tests.soak.server import foreign_lines

pytestmark = pytest.mark.slow

LIMIT_S = 15
"""Seconds that the responses to an attack may take."""
AT_ONCE = {
    "PNG of 49 million pixels to /remote/encode": 2,
    "PNG, 30 zTXt of a megabyte, to /encode": 64,
    "PNG, 3,874,975 RATIONAL in eXIf, gzip, to /encode": 4,
    "PNG whose EXIF makes Pillow warn": 13,
    "JSON, [0],[0],…, gzip, to /v2/models/mnist/infer": 2,
    "form in punycode": 4,
    "10,000 times GET /metrics": 2,
    "npy header, 1L,1L,…": 64,
    "npy header, 1,1,…": 64,
    "form of 2 parts, an open quotation mark": 64,
    "Arrow, 990 empty batches": 16,
    "head of 16,000 fields": 64,
    "10,000 draws of 1 images": 3,
    "10,000 draws of 100 images": 3,
}
"""Connections that send the attack at the same time; the soak uses more."""


class Timed(NamedTuple):
    """A service and the clock on its event loop."""

    server: LiveServer
    clock: Clock


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Timed]:
    file = tmp_path_factory.mktemp("loop") / "beats"
    clock = heartbeat.create(file)
    with live_server(str(file), program=("-m", heartbeat.__name__)) as server:
        for target in ("/sample", "/metrics", "/openapi.json", "/docs", "/latents"):  # what is made once
            server.get(target)
        yield Timed(server, clock)


@pytest.mark.parametrize("sent", [each for each in attacks() if each.brief], ids=lambda sent: sent.name)
def test_no_request_blocks_the_event_loop(timed: Timed, sent: Attack) -> None:
    measured = asyncio.run(measure(timed.server.port, timed.clock, sent, limit_s=LIMIT_S))
    assert measured.faults(sent) == [], sent.name


@pytest.mark.parametrize(("name", "times"), AT_ONCE.items())
def test_no_flood_blocks_the_event_loop(timed: Timed, name: str, times: int) -> None:
    sent = attack(name)
    measured = asyncio.run(measure(timed.server.port, timed.clock, sent, times, limit_s=2 * LIMIT_S))
    assert measured.faults(sent) == [], name


def test_the_clock_detects_a_blocked_loop(tmp_path: Path) -> None:
    clock = heartbeat.create(tmp_path / "beats")

    async def block(seconds: float) -> float:
        heartbeat.keep_beating(clock)
        await asyncio.sleep(0.05)
        clock.reset()
        time.sleep(seconds)  # noqa: ASYNC251 - this is the fault
        during = clock.longest_gap_s()
        await asyncio.sleep(0.05)
        return min(during, clock.longest_gap_s())

    assert 0.25 <= asyncio.run(block(0.3)) < 1


def test_only_the_log_is_written_to_standard_error(timed: Timed) -> None:
    """To standard error, by all that the tests above have sent."""
    assert httpx.get(f"{timed.server.url}/livez").status_code == 200
    assert foreign_lines(timed.server.log_file) == []
