"""How many machines a load takes: what one worker does, measured, and what many do, simulated with that.

    python -m benchmarks.capacity [--seconds S] [--only PART ...] [--out DIR]

wants what `make bench` wrote, Linux, two cores that have nothing else to do, `wrk`, `taskset` and `haproxy` (the extra
`ray` brings one), five minutes. It writes capacity.json to DIR, and from it the tables and the chart of
docs/capacity.md: the text between them is written by hand and has no figures. `--only` measures some parts again, or
none of them, and believes the file for the others.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import capacity_measure as measure
from benchmarks import capacity_page, capacity_plan
from benchmarks.machine import describe_machine

HERE = Path(__file__).parent
SERVER_CORE, CLIENT_CORE = 0, 1
Metrics = list[dict[str, float]]
PARTS = ("bench", "curve", "poisson", "memory", "connections", "wire", "proxy", "roll_out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3, help="length of a load")
    parser.add_argument("--rounds", type=int, default=3, help="of the loads; what is told is the median")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    file = options.out / "capacity.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    machine = describe_machine()
    os.sched_setaffinity(0, {CLIENT_CORE})
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    for shard in (shard for shard in PARTS if shard in options.only):
        print(f"{shard}: ", end="", flush=True)
        results[shard] = _measure(shard, results, options)
        print(json.dumps(results[shard]), flush=True)
    if {*options.only} - {"bench"}:  # which was measured when and where results.json says
        results |= {"date": datetime.now(UTC).date().isoformat(), "machine": machine}
    results["simulation"] = capacity_plan.simulate(results)
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    capacity_page.write(results)


def _measure(shard: str, results: dict[str, Any], options: argparse.Namespace) -> Any:
    core, seconds = SERVER_CORE, options.seconds

    def poisson() -> Metrics:
        return measure.measure_poisson(core, seconds, capacity_plan.service_of(results).best_rate)

    shards: dict[str, Callable[[], Any]] = {
        "bench": capacity_plan.of_bench,
        "curve": lambda: _medians(lambda: measure.measure_curve(core, seconds), options.rounds),
        "poisson": lambda: _medians(poisson, options.rounds),
        "memory": lambda: measure.measure_memory(core, seconds, *capacity_plan.pod_flags()),
        "connections": lambda: measure.measure_connections(core),
        "wire": lambda: measure.measure_wire(core) | {"series": measure.measure_series(core)},
        "proxy": lambda: measure.measure_proxy(core, seconds),
        "roll_out": lambda: [measure.roll_out(core, drained) for drained in (True, False)],
    }
    return shards[shard]()


def _medians(measure_once: Callable[[], Metrics], rounds: int) -> Metrics:
    """Of each figure, over the rounds."""
    rounds_of = zip(*(measure_once() for _ in range(rounds)), strict=True)
    return [{key: median(each[key] for each in point) for key in point[0]} for point in rounds_of]


if __name__ == "__main__":
    main()
