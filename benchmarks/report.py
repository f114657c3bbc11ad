"""The metrics of the serving benchmark, their goals, its page and its chart.

    python -m benchmarks.report [FOLDER]

writes serving.md and serving.png anew from the results.json beside them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.contenders import CONTENDERS
from benchmarks.harness.pages import HERE, number, span, table

Round = Mapping[str, Any]
"""What one round of benchmarks.serving measured: `loads` by contender, and the sections."""
Rounds = Sequence[Mapping[str, float]]
"""`metrics_of` each."""
CONNECTIONS = 32
CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CURVES = ("bare", "noop", "granian", "mosec", "ours")
"""Contenders measured with each number of connections in CURVE; the others only with CONNECTIONS."""
COLOURS = {"ours": "#c2410c", "bare": "#475569", "noop": "#0f766e", "granian": "#1d4ed8", "mosec": "#7e22ce"}
OTHER_COLOUR = "#94a3b8"
THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def metrics_of(measured: Round) -> dict[str, float]:
    """All metrics of a round by name; those of a load with failed requests are NaN.

    A load has the name "contender call/connections", which stands for its requests per second.
    """
    metrics = {}
    for contender, loads in measured["loads"].items():
        for name, load in loads.items():
            metrics[f"{contender} {name}"] = _rate(load)
            metrics[f"{contender} {name} p50"] = _valid(load, load["p50_ms"])
            metrics[f"{contender} {name} spread"] = _valid(load, load["p99_ms"] / load["p50_ms"])
    best = {
        "litserve": [f"litserve-{batch_size} decode/32" for batch_size in (1, 64)],
        "best of the curve": [
            f"ours {name}" for name in measured["loads"].get("ours", {}) if name.startswith("decode")
        ],
    }
    for name, loads in best.items():
        if loads and metrics.keys() >= set(loads):
            metrics[name] = float(np.max([metrics[load] for load in loads]))  # NaN if one is
    metrics |= {f"bulk {name}": rate for name, rate in measured.get("bulk", {}).items()}
    metrics |= {name: median(seconds) for name, seconds in measured.get("startup", {}).items()}
    metrics |= {name: median(rates) for name, rates in measured.get("counting", {}).items()}
    if "workers" in measured:
        one, two = (measured["workers"][count] for count in "12")
        memory_1, memory_2 = sum(one["memory_mb"]), sum(two["memory_mb"])
        metrics |= {
            "1 worker MB": memory_1,
            "2 workers MB": memory_2,
            "second worker's share": memory_2 / memory_1 - 1,
            "1 worker CPU s": _valid(one["load"], one["cpu_seconds_per_1000"]),
            "2 workers CPU s": _valid(two["load"], two["cpu_seconds_per_1000"]),
            "1 worker": _rate(one["load"]),
            "2 workers, each with a core": 2 * _rate(two["load"]),  # they have shared one
        }
    if "slow" in measured:
        slow = measured["slow"]["64"]
        share = _rate(slow["decode"]) / measured["slow"]["best"]
        metrics["slow share"] = share if share < 1.05 else nan  # above, the model was not slow
        metrics["slow livez p99"] = _valid(slow["livez"], slow["livez"]["p99_ms"])
    return metrics


def _rate(load: Mapping[str, Any]) -> float:
    return _valid(load, load["requests"] / load["seconds"])


def _valid(load: Mapping[str, Any], value: float) -> float:
    return nan if load["errors"] else value


@dataclass(frozen=True)
class Row:
    """A metric, or its ratio to another of the same round, and its goals: at least so much, or at most."""

    title: str
    metric: str
    against: str = ""
    goal: float | None = None
    stretch: float | None = None
    at_most: bool = False

    def values(self, rounds: Rounds) -> list[float]:
        """One for each of `metrics_of` the rounds that has measured it."""
        needed = {self.metric, self.against} - {""}
        return [
            metrics[self.metric] / (metrics[self.against] if self.against else 1)
            for metrics in rounds
            if needed <= metrics.keys()
        ]

    def reached(self, value: float) -> str:
        """The highest goal that `value` reaches."""
        if self.stretch is not None and self._reaches(value, self.stretch):
            return "stretch"
        return "yes" if self.goal is not None and self._reaches(value, self.goal) else "no"

    def _reaches(self, value: float, goal: float) -> bool:
        return value <= goal if self.at_most else value >= goal


OURS, NOOP = "ours decode/32", "noop decode/32"
ENGINE = "bulk in_process"
GOALS = (
    Row("decode, requests/s against the limit, a bare ASGI function", OURS, "bare decode/32", 0.70, 0.90),
    Row("… against FastAPI doing nothing", OURS, NOOP, 2.7, 3.5),
    Row("… against mosec", OURS, "mosec decode/32", 1.3, 2),
    Row("… against mosec, 256 connections", "ours decode/256", "mosec decode/256", 1.2, 2),
    Row("… against granian, RSGI by hand", OURS, "granian decode/32", 1.0, 1.3),
    Row("… against granian, RSGI by hand, 256 connections", "ours decode/256", "granian decode/256", 1.0, 1.3),
    Row("… against LitServe, the better of both", OURS, "litserve", 13),
    Row("… against BentoML", OURS, "bentoml decode/32", 20),
    Row("… against Ray Serve", OURS, "ray decode/32", 80),
    Row("encode, requests/s against FastAPI doing nothing", "ours encode/32", NOOP, 2.0, 2.5),
    Row("reconstruct, the same", "ours reconstruct/32", NOOP, 1.7, 2.5),
    Row("sample, the same", "ours sample/32", NOOP, 0.8, 1.2),
    Row("decode, p99 / p50 at 32 connections", "ours decode/32 spread", goal=1.3, stretch=1.2, at_most=True),
    Row("… at 128 connections", "ours decode/128 spread", goal=1.3, stretch=1.2, at_most=True),
    Row("decode, requests/s with 256 connections against 32", "ours decode/256", OURS, 1.1, 1.3),
    Row(
        "decode, requests/s at 512 connections against the best of the curve",
        "ours decode/512",
        "best of the curve",
        0.85,
    ),
    Row(
        "decode, p50 of one connection against FastAPI doing nothing",
        "ours decode/1 p50",
        "noop decode/1 p50",
        1.0,
        0.8,
        at_most=True,
    ),
    Row("10,000 latents npy → npy against the engine in process", "bulk npy", ENGINE, 0.7, 0.9),
    Row("… JSON → npy", "bulk json", ENGINE, 0.4),
    Row("from exec to ready against `import torch`", "ready", "import_torch", 0.35, 0.25, at_most=True),
    Row("memory of a worker after a load, MB", "1 worker MB", goal=95, stretch=80, at_most=True),
    Row("memory that a second worker adds, of the first's", "second worker's share", goal=0.6, at_most=True),
    Row("processor time per request, 2 workers against 1", "2 workers CPU s", "1 worker CPU s", goal=1.1, at_most=True),
    Row("requests/s of 2 workers, each with a core, against 1", "2 workers, each with a core", "1 worker", 1.9),
    Row("50 ms a batch, 64 connections: requests/s against whole batches", "slow share", goal=0.9),
    Row("… /livez meanwhile, p99 in ms", "slow livez p99", goal=20, at_most=True),
    Row("decode, requests/s with counting for /metrics against without", "counted", "uncounted", 0.97),
)
OTHERS = (
    Row("decode, requests/s against FastAPI, plainly written", OURS, "plain decode/32"),
    Row("… against a bare ASGI function on the same connections", OURS, "bare-connection decode/32"),
    Row("encode, requests/s", "ours encode/32"),
    Row("reconstruct, requests/s", "ours reconstruct/32"),
    Row("sample, requests/s", "ours sample/32"),
    Row("10,000 latents in process, latents/s", ENGINE),
    Row("… npy → npy", "bulk npy"),
    Row("… JSON → npy", "bulk json"),
    Row('`python -c "import torch"`, s', "import_torch"),
    Row("from exec to ready, s", "ready"),
    Row("memory of 2 workers with their supervisor, MB", "2 workers MB"),
    Row("processor seconds per 1,000 requests, 1 worker", "1 worker CPU s"),
    Row("… 2 workers on the same core", "2 workers CPU s"),
)


def write(folder: Path) -> None:
    """serving.md and serving.png from results.json, all in `folder`."""
    results = json.loads((folder / "results.json").read_text())
    (folder / "serving.md").write_text(render(results))
    draw([metrics_of(measured) for measured in results["rounds"]], folder / "serving.png")


def render(results: Mapping[str, Any]) -> str:
    rounds = [metrics_of(measured) for measured in results["rounds"]]
    curve_head = ("connections", *(CONTENDERS[name].label for name in CURVES), "vae-serve's p99 / p50")
    sections = [
        "# Serving, measured",
        *_preamble(results),
        "![Requests per second by contender, and over the number of connections](serving.png)",
        "## Goals",
        table(
            ("what", "median", "lowest to highest", "goal", "stretch", "reached"), [_goal(row, rounds) for row in GOALS]
        ),
        f"## One vector in, one 28×28 PNG out, {CONNECTIONS} connections",
        table(
            ("what answers", "requests/s", "lowest to highest", "p50 ms", "p99 ms", "failed"),
            _contenders(results["rounds"]),
        ),
        "## The same over the number of connections, requests/s",
        table(curve_head, _curve(rounds)),
        "## Other metrics",
        table(("what", "median", "lowest to highest"), [(row.title, *_median(row, rounds)) for row in OTHERS]),
    ]
    if results["failures"]:
        sections += ["## What failed", "\n".join(f"- {failure}" for failure in results["failures"])]
    return "\n\n".join(sections) + "\n"


def _preamble(results: Mapping[str, Any]) -> tuple[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    server, client = results["cores"]
    return (
        f"{results['date']}, {results['machine']}; {versions}. {len(results['rounds'])} rounds, {results['seconds']} s "
        f"a load; load average at the start {results['load_average']:.1f}.",
        f"`make bench` measures and writes this page. A server is pinned to core {server} with all its processes, "
        f"`wrk -t1` to core {client}. In each round every contender is started, checked for the right picture, "
        "measured and stopped in turn, because some take processor time while they idle. A ratio is one of metrics of "
        "the same round; the median is that of the rounds. All have the same model. vae-serve, mosec "
        "and granian compute it by ONNX Runtime and store the pixels of their PNGs; the others use PyTorch and Pillow. "
        "Access logs are off, which is faster, but for vae-serve, which runs on its defaults. "
        "p99 is wrk's, which makes up for the requests that a wait kept it from sending. Absolute values drift with "
        "the machine.",
    )


def _goal(row: Row, rounds: Rounds) -> Sequence[str]:
    sign = "≤" if row.at_most else "≥"
    goals = [f"{sign} {goal:g}" if goal is not None else "" for goal in (row.goal, row.stretch)]
    cells = _median(row, rounds)
    return [row.title, *cells, *goals, row.reached(median(row.values(rounds))) if cells[1] else ""]


def _median(row: Row, rounds: Rounds) -> tuple[str, str]:
    """Median and range; or why there is none."""
    values = row.values(rounds)
    if not values:
        return "not measured", ""
    if any(map(isnan, values)):
        return "invalid: requests failed", ""
    return number(median(values)), span(values)


def _contenders(rounds: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    for name, contender in CONTENDERS.items():
        loads = [loads[f"decode/{CONNECTIONS}"] for each in rounds if (loads := each["loads"].get(name))]
        if loads:
            rates = [load["requests"] / load["seconds"] for load in loads]
            latencies = [number(median(load[key] for load in loads)) for key in ("p50_ms", "p99_ms")]
            failed = str(sum(load["errors"] for load in loads))
            yield contender.label, number(median(rates)), span(rates), *latencies, failed


def _curve(rounds: Rounds) -> Iterator[Sequence[str]]:
    for connections in CURVE:
        metrics = [f"{name} decode/{connections}" for name in CURVES]
        cells = [_median(Row("", metric), rounds) for metric in (*metrics, f"ours decode/{connections} spread")]
        if any(told for _, told in cells):
            yield str(connections), *(middle for middle, _ in cells)


def draw(rounds: Rounds, path: Path) -> None:
    """PNG of two panels; what was not measured is left out."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))

    def rates(name: str, curve: Sequence[int]) -> dict[int, float]:
        medians = {count: Row("", f"{name} decode/{count}").values(rounds) for count in curve}
        return {count: median(values) for count, values in medians.items() if values and not any(map(isnan, values))}

    usual = {name: rate[CONNECTIONS] for name in CONTENDERS if (rate := rates(name, (CONNECTIONS,)))}
    names = sorted(usual, key=usual.__getitem__)
    if names:
        bars = left.barh(
            [CONTENDERS[name].label for name in names],
            [usual[name] for name in names],
            color=[COLOURS.get(name, OTHER_COLOUR) for name in names],
        )
        left.bar_label(bars, [f"{usual[name]:,.0f}" for name in names], padding=4)
        left.set_xscale("log")
        left.set_xlim(usual[names[0]] / 2, usual[names[-1]] * 3)
        left.xaxis.set_major_formatter(THOUSANDS)
        left.xaxis.set_minor_formatter(NullFormatter())
        for label, name in zip(left.get_yticklabels(), names, strict=True):
            label.set_fontweight("bold" if name == "ours" else "normal")
    left.set_title(f"Latents to PNGs a second, {CONNECTIONS} connections", loc="left", fontsize=11)
    for name in CURVES:
        if points := rates(name, CURVE):
            label = CONTENDERS[name].label
            right.plot(list(points), list(points.values()), "o-", color=COLOURS[name], markersize=4, label=label)
    if right.lines:
        right.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    right.set_xscale("log", base=2)
    right.set_xticks(CURVE, [str(connections) for connections in CURVE])
    right.set_ylim(bottom=0)
    right.yaxis.set_major_formatter(THOUSANDS)
    right.set_xlabel("connections")
    right.set_title("Over the number of connections", loc="left", fontsize=11)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
