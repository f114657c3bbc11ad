"""What was measured, as a page.

    python -m benchmarks.report [FOLDER]

writes serving.md and serving.png anew from the results.json beside them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.chart import draw
from benchmarks.contender import CONTENDERS
from benchmarks.figures import InvalidLoad, Round, rate, rate_of, spread_of
from benchmarks.loads import CURVE, CURVES
from benchmarks.rows import GOALS, OTHERS, Row

HERE = Path(__file__).parent


def write(folder: Path) -> None:
    """serving.md and serving.png from results.json, all in `folder`."""
    results = json.loads((folder / "results.json").read_text())
    (folder / "serving.md").write_text(render(results))
    draw(results["rounds"], folder / "serving.png")


def render(results: Mapping[str, Any]) -> str:
    rounds = results["rounds"]
    curve_head = ("connections", *(CONTENDERS[name].label for name in CURVES), "vae-serve's p99 / p50")
    sections = [
        "# Serving, measured",
        _preamble(results),
        "![Requests per second by contender, and over the number of connections](serving.png)",
        "## Goals",
        _table(
            ("what", "median", "lowest to highest", "goal", "stretch", "reached"), [_goal(row, rounds) for row in GOALS]
        ),
        "## One vector in, one 28×28 PNG out, 32 connections",
        _table(("what answers", "requests/s", "lowest to highest", "p50 ms", "p99 ms", "failed"), _contenders(rounds)),
        "## The same over the number of connections, requests/s",
        _table(curve_head, _curve(rounds)),
        "## The other figures",
        _table(("what", "median", "lowest to highest"), [(row.title, *_told(row, rounds)) for row in OTHERS]),
    ]
    if results["failures"]:
        sections += ["## What failed", "\n".join(f"- {failure}" for failure in results["failures"])]
    return "\n\n".join(sections) + "\n"


def _preamble(results: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    server, client = results["cores"]
    return (
        f"{results['date']}, {results['machine']}; {versions}. {len(results['rounds'])} rounds, {results['seconds']} s "
        f"a load; load average at the start {results['load_average']:.1f}.\n\n"
        f"`make bench` measures and writes this page. A server is pinned to core {server} with all its processes, "
        f"`wrk -t1` to core {client}. In each round every contender is started, checked for the right picture, "
        "measured and stopped in turn, because some take processor time while they idle. Ratios are those of one "
        "round; what is told is the median of the rounds. All have the same torch and the same model; the others' "
        "pictures are Pillow's, and their access logs are off, which is faster. vae-serve runs on its defaults. "
        "p99 as wrk tells it, which makes up for the requests that a wait kept it from sending. Absolute figures drift "
        "with the machine."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def _goal(row: Row, rounds: Sequence[Round]) -> Sequence[str]:
    sign = "≤" if row.at_most else "≥"
    goals = [f"{sign} {goal:g}" if goal is not None else "" for goal in (row.goal, row.stretch)]
    told = _told(row, rounds)
    reached = row.reached(median(row.values(rounds))) if told[1] else ""
    return [row.title, *told, *goals, reached]


def _told(row: Row, rounds: Sequence[Round]) -> tuple[str, str]:
    """Median and range; or why there is none."""
    try:
        values = row.values(rounds)
    except InvalidLoad as error:
        return f"invalid: {error}", ""
    if not values:
        return "not measured", ""
    return number(median(values)), f"{number(min(values))} to {number(max(values))}"


def _contenders(rounds: Sequence[Round]) -> Iterator[Sequence[str]]:
    for name, contender in CONTENDERS.items():
        loads = [measured["loads"][name]["decode/32"] for measured in rounds if name in measured["loads"]]
        if loads:
            rates = [rate(load) for load in loads]
            latencies = [number(median(load[key] for load in loads)) for key in ("p50_ms", "p99_ms")]
            span = f"{number(min(rates))} to {number(max(rates))}"
            failed = str(sum(load["errors"] for load in loads))
            yield contender.label, number(median(rates)), span, *latencies, failed


def _curve(rounds: Sequence[Round]) -> Iterator[Sequence[str]]:
    for connections in CURVE:
        rows = [Row(name, rate_of(name, connections=connections)) for name in CURVES]
        rows.append(Row("p99 / p50", spread_of("ours", connections)))
        told = [_told(row, rounds) for row in rows]
        if any(span for _, span in told):
            yield str(connections), *(middle for middle, _ in told)


def number(value: float) -> str:
    """Three digits, and whole ones above."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
