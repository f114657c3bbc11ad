"""The page of results beside their goals.

python -m tests.soak.report [FOLDER]

writes report.md anew from the report.json beside it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness.pages import number, table
from tests.soak.goals import GOALS, Goal

HERE = Path(__file__).parent
MISSED = "NO"
CHECKED = ("requests", "sent", "right", "wrong", "orphans' clients right")
LOST = ("lost", "killed, lost", "stuck, lost", "orphans' clients lost", "good clients lost", "without a response")
WRONG = ("wrong", "orphans' wrong answers", "wrong afterwards")
HEADLINES = (
    (
        "overload",
        "overload",
        "{times capacity} times the capacity for {seconds} s: goodput {goodput, %} % of the peak, "
        "p99 of rejections {refusals' p99, ms} ms, slowest probe {probes' slowest, ms} ms",
    ),
    (
        "faults",
        "faults",
        "{killed} workers killed, each replaced within {killed, replaced, s} s; one stuck, replaced after "
        "{stuck, replaced, s} s; a supervisor killed",
    ),
    ("blocked", "… an event loop blocked by a request", "a new worker after {replaced, s} s"),
    ("stops", "… stops under load", "{stops}, each with exit status 0 within {slowest, s} s"),
    (
        "slow",
        "… slow connections (slowhttptest)",
        "{slow connections}; {answered} of {good clients} other clients got their response in time",
    ),
    (
        "descriptors",
        "… connections with 128 file descriptors per process",
        "{connections}: {answered} got a response, the others were closed",
    ),
    (
        "barrage",
        "malformed and hostile requests",
        "{bad inputs}: {5xx} responses with 5xx, {slower than 1 s} slower than a second (slowest {slowest, s} s), "
        "{workers lost} workers lost",
    ),
    ("leak", "resident memory before and after {requests} requests", "{MB before} and {MB after} MB"),
    ("leak", "file descriptors before and after", "{descriptors before} and {descriptors after}"),
)
"""Part, title, and its values."""


class _Told(dict[str, str]):
    """Figures for a sentence, some of which may be missing."""

    def __missing__(self, name: str) -> str:
        return "?"


class Verdict(NamedTuple):
    """A goal and the measured value."""

    goal: Goal
    seen: str
    judged: str
    """yes, NO, or why there is neither."""


def write(folder: Path) -> None:
    """report.md from report.json, both in `folder`."""
    (folder / "report.md").write_text(render(json.loads((folder / "report.json").read_text())))


def judge(report: Mapping[str, Any]) -> Iterator[Verdict]:
    """Every goal of the parts that were run; a figure that is missing misses its goal."""
    for goal in GOALS:
        part = report["parts"].get(goal.part)
        if part is None:
            continue
        if part["skipped"]:
            yield Verdict(goal, "", "skipped")
            continue
        seen = part["figures"].get(goal.figure)
        if seen is None:
            yield Verdict(goal, "not measured", MISSED)
        elif goal.size and report["quick"]:
            yield Verdict(goal, number(seen), "a quick run")
        else:
            yield Verdict(goal, number(seen), "yes" if goal.is_reached_by(seen) else MISSED)


def has_passed(report: Mapping[str, Any]) -> bool:
    """No goal is missed, no part broke off."""
    return not misses(report)


def render(report: Mapping[str, Any]) -> str:
    """The page."""
    verdicts = list(judge(report))
    parts = report["parts"]
    sections = [
        "# Soak, measured",
        _preamble(report),
        table(("what", "result"), headline(parts), text=2),
        "## Goals",
        "The rows are those of the table of faults and threats.",
        table(
            ("row", "what", "goal", "seen", "reached"),
            [(goal.row, goal.title, goal.bound, seen, judged) for goal, seen, judged in verdicts],
            text=5,
        ),
        "## All figures",
        *(
            f"{name}, {part['seconds']:.0f} s: "
            + "; ".join(f"{k} {number(v)}" for k, v in part["figures"].items())
            + "."
            for name, part in parts.items()
            if part["figures"]
        ),
    ]
    problems = [f"- {name}: {problem}" for name, part in parts.items() for problem in _problems(part)]
    if problems:
        sections += ["## What went wrong, or was left out", "\n".join(problems)]
    return "\n\n".join(sections) + "\n"


def headline(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The first table of the report, which docs/reliability.md repeats: title and value of each part that was run."""
    figures = {name: part["figures"] for name, part in parts.items() if part["figures"]}
    lines = [
        ("requests whose response was checked", number(_total(figures, CHECKED))),
        ("requests lost", number(_total(figures, LOST))),
        ("wrong responses", number(_total(figures, WRONG))),
    ]
    for part, what, told in HEADLINES:
        if part in figures:
            values = _Told({name: number(value) for name, value in figures[part].items()})
            lines.append((what.format_map(values), told.format_map(values)))
    return lines


def misses(report: Mapping[str, Any]) -> list[str]:
    """A line for each goal that is missed, and each part that broke off or, in a whole run, was left out."""
    parts = report["parts"].items()
    failed = [f"{name} broke off: {part['failed']}" for name, part in parts if part["failed"]]
    failed += [
        f"{name} was left out: {part['skipped']}" for name, part in parts if part["skipped"] and not report["quick"]
    ]
    return failed + [
        f"Missed ({verdict.goal.part}): {verdict.goal.title}: {verdict.seen}; {verdict.goal.bound} is the goal."
        for verdict in judge(report)
        if verdict.judged == MISSED
    ]


def _total(figures: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> float:
    return sum(part.get(name, 0) for part in figures.values() for name in names)


def _preamble(report: Mapping[str, Any]) -> str:
    server, client = report["cores"]
    text = (
        f"{report['date']}, {report['machine']}; {report['seconds'] / 60:.0f} minutes, load average at the start "
        f"{report['load_average']:.1f}.\n\n`make soak` measures and writes this page: vae-serve with two workers on "
        f"core {server}, its clients on core {client}, with a connection each, HTTP over real sockets. Memory is the "
        "sum of the resident set sizes of all processes of the service, with shared pages counted for each. A request "
        "is lost if it has no response although it should have one: requests of a killed worker are not counted, "
        "requests sent before a stop are. Each response is compared, bit by bit, with the response to the same request "
        "on an idle service."
    )
    return text + (" **This was a quick run: a little of everything.**" if report["quick"] else "")


def _problems(part: Mapping[str, Any]) -> list[str]:
    return [text for text in (part["skipped"], part["failed"], *part["problems"]) if text]


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
