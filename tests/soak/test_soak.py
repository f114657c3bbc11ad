"""The soak fails if a response is lost or wrong, or a part is missing or incomplete."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.soak import __main__ as soak
from tests.soak import overload, report
from tests.soak.attack_requests import Attack
from tests.soak.attacker import Outcome, send
from tests.soak.attacks import attacks
from tests.soak.bad_inputs import MAKERS, bad_input
from tests.soak.client import Response, write_request
from tests.soak.clients import Clients
from tests.soak.exchanges import Exchange
from tests.soak.goals import GOALS, Goal
from tests.soak.load import ClosedLoop
from tests.soak.overload import OpenLoop, Watch, percentile
from tests.soak.plan import Figures, Findings, Plan
from tests.soak.server import Resources, Server, foreign_lines

Results = dict[str, Any]
RIGHT = Response(200, {b"content-type": b"text/plain", b"x-seed": b"1"}, b"right")
EXCHANGE = Exchange("an exchange", write_request("GET", "/"), RIGHT)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx-seed: 1\r\ncontent-length: 5\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\n%bcontent-length: 0\r\n\r\n"
HANG_UP = b""


class Service(Server):
    """A service of which only the port is known."""

    def __init__(self, port: int) -> None:
        vars(self)["port"] = port

    def resources(self) -> Resources:
        return Resources(0, 0)


@pytest.fixture
def results() -> Results:
    """Results of a run that just reaches each goal."""
    return {
        "date": "",
        "machine": "",
        "cores": [0, 1],
        "load_average": 0,
        "quick": False,
        "seconds": 9,
        "parts": parts(),
    }


def parts() -> Results:
    return {name: {**vars(Findings(figures=reached(name))), "failed": "", "seconds": 1.0} for name in soak.PARTS}


def reached(part: str) -> Figures:
    return {goal.figure: goal.least or goal.most or 0 for goal in GOALS if goal.part == part}


def test_what_reaches_every_goal_passes(results: Results) -> None:
    assert report.misses(results) == []
    assert report.MISSED not in report.render(results)


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.part}: {goal.figure}")
def test_a_goal_that_is_missed_fails_the_run(results: Results, goal: Goal) -> None:
    figures = results["parts"][goal.part]["figures"]
    worse = goal.least - 1 if goal.least is not None else (goal.most or 0) + 1
    for bad in (worse, float("nan")):
        figures[goal.figure] = bad
        assert len(report.misses(results)) == 1
        assert f"| {goal.title} |" in report.render(results)
    results["quick"] = True
    assert bool(report.misses(results)) is not goal.size
    results["quick"] = False
    del figures[goal.figure]
    assert len(report.misses(results)) == 1


@pytest.mark.parametrize(
    ("what", "names"), [("requests lost", report.LOST), ("wrong responses", report.WRONG)], ids=("lost", "wrong")
)
def test_each_count_of_lost_requests_and_wrong_responses_has_a_goal_of_none(
    results: Results, what: str, names: Sequence[str]
) -> None:
    for part in results["parts"].values():
        for name in set(names) & part["figures"].keys():
            assert (what, "0") in report.headline(results["parts"])
            part["figures"][name] = 1
            assert (what, "1") in report.headline(results["parts"])
            assert len(report.misses(results)) == 1
            part["figures"][name] = 0


def test_a_part_that_broke_off_or_was_left_out_fails_the_run(results: Results) -> None:
    results["parts"]["slow"] |= {"figures": {}, "skipped": "There is no slowhttptest."}
    assert report.misses(results) == ["slow was left out: There is no slowhttptest."]
    assert "There is no slowhttptest." in report.render(results)
    results["quick"] = True
    assert report.misses(results) == []
    results["quick"] = False
    results["parts"]["leak"] |= {"figures": {}, "failed": "OSError: no memory"}
    assert "leak broke off: OSError: no memory" in report.misses(results)
    assert "OSError: no memory" in report.render(results)


@pytest.mark.parametrize(("lost", "status"), [(0, 0), (1, 1)])
def test_the_exit_status_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: int, status: int) -> None:
    async def part(plan: Plan) -> Findings:
        return Findings(figures={**reached("answers"), "lost": lost})

    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: None)
    monkeypatch.setattr(sys, "argv", ["soak", "--only", "answers", "--out", str(tmp_path)])
    monkeypatch.setitem(soak.PARTS, "answers", part)
    with pytest.raises(SystemExit) as end:
        soak.main()
    assert end.value.code == status
    assert json.loads((tmp_path / "report.json").read_text())["parts"]["answers"]["figures"]["lost"] == lost
    assert f"| 17 | … requests lost | 0 | {lost} |" in (tmp_path / "report.md").read_text()


# What the loads count.


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[int]:
    """A server that sends these responses to any requests and disconnects after the last; yields its port."""
    left = iter(answers)

    async def response(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            told = next(left, HANG_UP)
            if told == HANG_UP:
                break
            writer.write(told)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(response, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.sleep(0.05)  # until the clients' connections are closed too


def test_answers_that_are_wrong_or_do_not_come_are_counted() -> None:
    async def ask() -> ClosedLoop:
        async with answering(OK + b"right", OK + b"wrong", HANG_UP, OK + b"right") as port:
            load = ClosedLoop(port, iter([EXCHANGE] * 4), 1, Findings())
            await load.run()
            return load

    load = asyncio.run(ask())
    assert (load.sent, load.right, load.wrong, load.lost) == (4, 2, 1, 1)


def test_a_connection_is_made_anew_when_it_has_had_its_share() -> None:
    async def ask() -> ClosedLoop:
        async with answering(*[OK + b"right"] * 6) as port:
            load = ClosedLoop(port, iter([EXCHANGE] * 6), 1, Findings(), reopens=2)
            await load.run()
            return load

    load = asyncio.run(ask())
    assert (load.right, load.reopened) == (6, 2)


@pytest.mark.parametrize(
    ("response", "well"), [(OK + b"right", True), (UNAVAILABLE % b"", False), (HANG_UP, False), (b"HTTP/1.1 ", False)]
)
def test_a_probe_that_is_not_answered_has_failed(monkeypatch: pytest.MonkeyPatch, response: bytes, well: bool) -> None:
    monkeypatch.setattr(overload, "PROBE_S", 0.2)

    async def probe() -> Watch:
        async with answering(*[response] * 2) as port:
            watch = Watch(Service(port))
            watching = asyncio.create_task(watch.run())
            while len(watch.probed_s) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            watching.cancel()
            return watch

    watch = asyncio.run(probe())
    assert watch.failed == (0 if well else 2)
    assert watch.probed_s


def test_refusals_under_overload_have_to_say_when_to_come_again() -> None:
    async def offer() -> OpenLoop:
        refusal, bare = (UNAVAILABLE % field for field in (b"retry-after: 1\r\n", b""))
        async with answering(OK + b"right", refusal, OK + b"wrong", bare, HANG_UP) as port:
            load = OpenLoop(port, EXCHANGE, Findings())
            assert await load.run(rate=5, seconds=1) == 5
            return load

    load = asyncio.run(offer())
    assert (load.right, load.wrong, load.lost, load.without_retry_after) == (1, 1, 1, 1)
    assert load.statuses[503] == len(load.refused_after_s) == 2


def test_callers_tell_a_refusal_from_a_wrong_answer_and_when_one_was_lost() -> None:
    async def ask() -> Clients:
        refusal, bare = (UNAVAILABLE % field for field in (b"retry-after: 1\r\n", b""))
        async with answering(OK + b"right", refusal, bare, HANG_UP) as port:
            clients = Clients(port, [EXCHANGE], 1)
            asking = asyncio.create_task(clients.run())
            await asyncio.sleep(0.2)
            clients.stop()
            await asking
            return clients

    clients = asyncio.run(ask())
    assert (clients.right, clients.refused, len(clients.wrong)) == (1, 1, 1)
    assert clients.failures[0].port
    assert clients.failures[0].asked_at < clients.failures[0].failed_at


@pytest.mark.parametrize(
    "other",
    [
        RIGHT._replace(status=500),
        RIGHT._replace(body=b"righT"),
        RIGHT._replace(fields={**RIGHT.fields, b"x-seed": b"2"}),
        RIGHT._replace(fields={**RIGHT.fields, b"content-type": b"image/png"}),
    ],
)
def test_an_answer_is_right_to_the_bit(other: Response) -> None:
    assert EXCHANGE.matches(RIGHT)
    assert not EXCHANGE.matches(other)


def test_a_bad_input_is_the_same_each_time_and_its_end_shows_where_it_is_said_to() -> None:
    numbers = range(40 * len(MAKERS))
    inputs = [bad_input(number) for number in numbers]
    assert [bad_input(number) for number in numbers] == inputs
    assert {each.kind for each in inputs} == MAKERS.keys()
    for each in inputs:
        head, _, body = each.data.partition(b"\r\n\r\n")
        if each.framed:
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
            assert int(fields.get(b"content-length", b"0")) == len(body), each.number


def test_an_attack_is_the_same_each_time_and_its_end_shows_where_it_is_said_to() -> None:
    small = [each for each in attacks() if each.brief and each.answers == 1 and each.framed and "MB" not in each.name]
    for each in small[::15]:
        head, _, body = each.make().partition(b"\r\n\r\n")
        assert each.make() == each.data, each.name
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"transfer-encoding" not in fields:
            assert int(fields.get(b"content-length", b"0")) == len(body), each.name


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ((OK + b"right", OK + b"right"), ""),
        ((OK + b"right", UNAVAILABLE % b"retry-after: 1\r\n"), "503 (expected 200)"),
        ((OK + b"right", HANG_UP), "1 of 2 answers: the connection was closed"),
        ((OK + b"right", b"no HTTP"), "1 of 2 answers: the response is not HTTP"),
        ((OK + b"right", OK), "1 of 2 answers: nothing more within 0.2 s"),
    ],
)
def test_an_attack_is_answered_as_expected_or_has_a_fault(answers: Sequence[bytes], fault: str) -> None:
    requests = Attack("two", partial(bytes, 2 * EXCHANGE.request), frozenset({200}), answers=2)

    async def attack() -> Outcome:
        async with answering(*answers) as port:
            return await send(port, requests, 0.2)

    outcome = asyncio.run(attack())
    assert outcome.fault(requests).startswith(fault)
    assert bool(outcome.fault(requests)) is bool(fault)
    assert outcome.without_retry_after == 0


def test_a_refusal_of_an_attack_has_to_say_when_to_come_again() -> None:
    async def attack() -> Outcome:
        async with answering(UNAVAILABLE % b"") as port:
            return await send(port, Attack("one", partial(bytes, EXCHANGE.request)), 0.2)

    outcome = asyncio.run(attack())
    assert (outcome.statuses, outcome.without_retry_after) == ((503,), 1)


def test_what_is_not_a_line_of_the_log_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("2026-11-29 10:00:00,123 INFO    Started.\nTraceback:\n2026-11-29 10:00:00,123 ERROR   No.\n")
    assert foreign_lines(log) == ["Traceback:"]


def test_percentiles() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.99, 1)] == [50, 99, 100]
    assert percentile([], 0.99) == 0
