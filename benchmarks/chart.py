"""What was measured, as a picture: contenders, and the curve over connections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.contender import CONTENDERS
from benchmarks.figures import InvalidLoad, Round, rate_of
from benchmarks.loads import CURVE, CURVES, USUAL
from benchmarks.rows import Row

COLOURS = {"ours": "#c2410c", "bare": "#475569", "noop": "#0f766e"}
OTHER_COLOUR = "#94a3b8"
THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def draw(rounds: Sequence[Round], path: Path) -> None:
    """PNG of two panels; what was not measured is left out."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    rates = {name: _median_rate(rounds, name, USUAL) for name in CONTENDERS}
    _bars(left, {name: rate for name, rate in rates.items() if rate})
    for name in CURVES:
        points = {connections: _median_rate(rounds, name, connections) for connections in CURVE}
        _curve(right, name, {connections: rate for connections, rate in points.items() if rate})
    right.set_xscale("log", base=2)
    right.set_xticks(CURVE, [str(connections) for connections in CURVE])
    right.set_ylim(bottom=0)
    right.yaxis.set_major_formatter(THOUSANDS)
    right.set_xlabel("connections")
    left.set_title(f"Latents to PNGs a second, {USUAL} connections", loc="left", fontsize=11)
    right.set_title("Over the number of connections", loc="left", fontsize=11)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _median_rate(rounds: Sequence[Round], name: str, connections: int) -> float:
    """Zero where there is none."""
    try:
        values = Row(name, rate_of(name, connections=connections)).values(rounds)
    except InvalidLoad:
        return 0
    return median(values) if values else 0


def _bars(axes: Axes, rates: Mapping[str, float]) -> None:
    if not rates:
        return
    names = sorted(rates, key=rates.__getitem__)
    bars = axes.barh(
        [CONTENDERS[name].label for name in names],
        [rates[name] for name in names],
        color=[COLOURS.get(name, OTHER_COLOUR) for name in names],
    )
    axes.bar_label(bars, [f"{rates[name]:,.0f}" for name in names], padding=4)
    axes.set_xscale("log")
    axes.set_xlim(min(rates.values()) / 2, max(rates.values()) * 3)
    axes.xaxis.set_major_formatter(THOUSANDS)
    axes.xaxis.set_minor_formatter(NullFormatter())
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == "ours" else "normal")


def _curve(axes: Axes, name: str, points: Mapping[int, float]) -> None:
    if not points:
        return
    weight = "bold" if name == "ours" else "normal"
    axes.plot(list(points), list(points.values()), "o-", color=COLOURS[name], markersize=4)
    end = max(points)
    label = CONTENDERS[name].label
    axes.annotate(
        label,
        (end, points[end]),
        xytext=(8, 8 if name == "ours" else 0),  # it may end where another one does
        textcoords="offset points",
        va="bottom" if name == "ours" else "center",
        color=COLOURS[name],
        fontweight=weight,
    )
