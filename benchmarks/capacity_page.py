"""The tables and the chart of docs/capacity.md, from what was measured and simulated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks import capacity_plan as plan
from benchmarks.capacity_plan import Results, heard_s, service_of
from benchmarks.report import number
from service.settings import BUNDLED, Settings

DOCS = Path(__file__).parent.parent / "docs"
KEEP_ALIVE_S: float = Settings.model_fields["keep_alive"].default
STEPS = {1e3: 2, 1e5: 16, 1e7: 64}
"""Requests a second, and the cores of a machine that one would take for them."""
AT_ONCE = 0.25
"""Of the pods, that a large roll-out replaces together."""
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Rows = Sequence[Sequence[str]]


def write(results: Results) -> None:
    """The tables anew, the text between them as it is, and the chart."""
    page = DOCS / "capacity.md"
    page.write_text(render(page.read_text(), results))
    draw(results, DOCS / "capacity.png")


def render(page: str, results: Results) -> str:
    """`page` with the tables that `results` give."""
    return BLOCK.sub(lambda block: f"{block[1]}{_table(*TABLES[block[2]](results))}{block[3]}", page)


def _worker(results: Results) -> Rows:
    service = service_of(results)
    bench, wire = results["bench"], results["wire"]
    rows = (
        ("r", "requests/s of a worker whose batches are full, one core", service.best_rate, ""),
        ("", "… its processor time for a request of them", 1e6 / service.best_rate, " µs"),
        ("", "… for a request alone", 1e6 * service(1), " µs"),
        ("u", "utilisation that is planned", plan.PLANNED, ""),
        (
            "p",
            f"processor time of HAProxy {results['proxy']['version']} for a request",
            1e6 * results["proxy"]["busy_s"],
            " µs",
        ),
        ("b", "bytes of a request and its answer, above TCP", wire["request"] + wire["answer"], ""),
        ("M", "memory of a machine's first worker", bench["first_mb"], " MB"),
        ("m", "… of each further one, forked from the same parent", bench["further_mb"], " MB"),
        ("k", "memory of a connection that is kept alive", results["connections"], " KiB"),
        ("K", "time that it is, `VAE_KEEP_ALIVE`", KEEP_ALIVE_S, " s"),
        ("t", "from the start of a worker until it is ready", bench["start_s"], " s"),
        ("h", "until a load balancer has heard of it, at most, as the readiness probe asks", heard_s(), " s"),
        ("", "the checkpoint", BUNDLED.stat().st_size / 1e6, " MB"),
        ("", "time series of a pod in Prometheus", wire["series"], ""),
    )
    return [("", "of one worker", "figure"), *((sign, what, number(value) + unit) for sign, what, value, unit in rows)]


def _validation(results: Results) -> Rows:
    best = service_of(results).best_rate
    head = ("requests/s", "utilisation", "p50, ms", "simulated", "p99, ms", "simulated", "in flight", "simulated")
    pairs = zip(results["poisson"], results["simulation"]["validation"], strict=True)
    return [
        head,
        *(
            (
                number(load["rate"]),
                f"{load['rate'] / best:.2f}",
                *(
                    number(scale * each[key])
                    for key, scale in (("p50_s", 1e3), ("p99_s", 1e3), ("in_flight", 1))
                    for each in (load, simulated)
                ),
            )
            for load, simulated in pairs
        ),
    ]


def _waiting(results: Results) -> Rows:
    policies = list(plan.POLICIES)
    head = ["utilisation", *(f"p50 / p99, ms: {policy}" for policy in policies), "in flight in a worker", "refused"]
    rows = []
    for share in plan.UTILISATIONS:
        told = {each["policy"]: each for each in results["simulation"]["waiting"] if each["utilisation"] == share}
        times = (f"{number(1e3 * told[name]['p50_s'])} / {number(1e3 * told[name]['p99_s'])}" for name in policies)
        two = told["the better of two"]
        rows.append([f"{share:g}", *times, number(two["in_flight"]), f"{two['refused']:.1%}"])
    return [head, *rows]


def _machines(results: Results) -> Rows:
    service = service_of(results)
    bench = results["bench"]
    bits = 8 * (results["wire"]["request"] + results["wire"]["answer"])
    step_s = bench["start_s"] + heard_s()
    lines: dict[str, list[str]] = {}
    for rate, cores in STEPS.items():
        workers = ceil(rate / (plan.PLANNED * service.best_rate))
        machines = max(2, ceil(workers / cores) + 1)
        memory_mb = bench["first_mb"] + (ceil(workers / (machines - 1)) - 1) * bench["further_mb"]
        column = {
            "workers, w = ⌈R / (u·r)⌉": f"{workers:,}",
            "cores of a machine, c": str(cores),
            "machines, n = ⌈w / c⌉ + 1: one may be missing": f"{machines:,}",
            "memory of its workers, M + (⌈w / (n − 1)⌉ − 1)·m": f"{memory_mb / 1e3:.2g} GB",
            "cores of an HTTP load balancer, R·p / u": number(rate * results["proxy"]["busy_s"] / plan.PLANNED),
            "network, 8·R·b": f"{number(rate * bits / 1e9)} Gbit/s",
            "connections where each caller asks once and stays, R·K": f"{rate * KEEP_ALIVE_S:,.0f}",
            "… their memory, R·K·k": f"{number(rate * KEEP_ALIVE_S * results['connections'] * 1024 / 1e9)} GB",
            "a roll-out of pods of one worker, one after the other, w·(t + h)": _duration(workers * step_s),
            f"… {AT_ONCE:.0%} at once, {1 / AT_ONCE:g}·(t + h) at least": _duration(min(workers, 1 / AT_ONCE) * step_s),
        }
        for title, cell in column.items():
            lines.setdefault(title, []).append(cell)
    return [
        ("requests/s, R", *(f"{rate:,.0f}" for rate in STEPS)),
        *((title, *cells) for title, cells in lines.items()),
    ]


def _roll_out(results: Results) -> Rows:
    head = ("goes on answering for, s", "requests", "refused with 503", "lost", "p99, ms", "all replaced after, s")
    return [
        head,
        *(
            (
                f"{each['wait_s']:g}",
                f"{each['requests']:,}",
                f"{each['refused']:,}",
                f"{each['lost']:,}",
                number(1e3 * each["p99_s"]),
                number(each["took_s"]),
            )
            for each in results["simulation"]["roll_out"]
        ),
    ]


def _live(results: Results) -> Rows:
    titles = {True: "drained in the proxy first, then stopped", False: "stopped at once"}
    rows = ((titles[each["drained"]], f"{each['requests']:,}", f"{each['failed']:,}") for each in results["roll_out"])
    return [("the worker that goes is", "requests", "failed"), *rows]


def _memory(results: Results) -> Rows:
    rows = (
        (each["what"], str(each["at_once"]), number(each["idle_mib"]), number(each["peak_mib"]))
        for each in results["memory"]
    )
    return [("what is asked of a worker", "at once", "before, MiB", "peak, MiB"), *rows]


def _in_flight(results: Results) -> Rows:
    best = service_of(results).best_rate
    rows = ((f"{load['rate'] / best:.2f}", number(load["told_in_flight"])) for load in results["poisson"])
    return [("utilisation", "`vae_requests_in_flight`, mean"), *rows]


def _machine(results: Results) -> Rows:
    return [("measured", "on"), (results["date"], results["machine"])]


TABLES: dict[str, Callable[[Results], Rows]] = {
    "machine": _machine,
    "worker": _worker,
    "validation": _validation,
    "waiting": _waiting,
    "machines": _machines,
    "roll_out": _roll_out,
    "live": _live,
    "memory": _memory,
    "in_flight": _in_flight,
}
"""Of the page, by the names that it has for them."""


def _table(head: Sequence[str], *rows: Sequence[str]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{number(seconds / length)} {unit}"
    return f"{number(seconds)} s"


def draw(results: Results, path: Path) -> None:
    """PNG of two panels: simulated beside measured, and what a request waits over utilisation."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    best = service_of(results).best_rate
    loads, simulated = results["poisson"], results["simulation"]["validation"]
    shares = [load["rate"] / best for load in loads]
    for key, colour in (("p50_s", "#0f766e"), ("p99_s", "#c2410c")):
        left.plot(shares, [1e3 * each[key] for each in simulated], color=colour)
        left.plot(shares, [1e3 * load[key] for load in loads], "o", color=colour)
        left.annotate(
            key[:3], (shares[-1], 1e3 * simulated[-1][key]), xytext=(8, 0), textcoords="offset points", color=colour
        )
    left.set_title("One worker, ms: simulated (lines) and measured (points)", loc="left", fontsize=11)
    for (policy, shares_of), colour in zip(_p99_by_policy(results), ("#475569", "#c2410c", "#0f766e"), strict=True):
        right.plot(list(shares_of), list(shares_of.values()), "o-", markersize=4, color=colour, label=policy)
    right.set_title(f"{plan.WORKERS} workers, p99 in ms, simulated, by load balancer", loc="left", fontsize=11)
    right.legend(frameon=False)
    for axes in (left, right):
        _dress(axes)
    figure.savefig(path, dpi=150)


def _p99_by_policy(results: Results) -> Iterator[tuple[str, dict[float, float]]]:
    waiting = results["simulation"]["waiting"]
    for policy in plan.POLICIES:
        yield policy, {each["utilisation"]: 1e3 * each["p99_s"] for each in waiting if each["policy"] == policy}


def _dress(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("utilisation")
    axes.spines[["top", "right"]].set_visible(False)
