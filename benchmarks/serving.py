"""The service under load, against the limit of its server, a FastAPI that does nothing, and three frameworks.

    python -m benchmarks.serving [--rounds N] [--seconds S] [--only NAME ...] [--quick] [--out DIR]

wants Linux, two cores that have nothing else to do, `wrk` and `taskset`. It writes results.json, serving.md and
serving.png to DIR. benchmarks/contender.py says who is measured, benchmarks/rows.py what is to be reached.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import bulk, counting, loads, report, slow, startup, workers, wrk
from benchmarks.contender import CONTENDERS, framework_version
from benchmarks.machine import describe_machine
from benchmarks.pinned import output_of

HERE = Path(__file__).parent
PACKAGES = ("starlette", "uvloop", "httptools", "pydantic", "numpy", "pillow")
QUICK_CURVE = (1, 32, 128, 512)
SECTIONS = ("bulk", "startup", "workers", "slow", "counting")
STARTS = 3


def main() -> None:
    options = _options()
    cores = _cores()
    machine = describe_machine()
    for name in CONTENDERS.keys() & set(options.only):
        CONTENDERS[name].set_up()
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "versions": _versions(),
        "cores": cores,
        "load_average": os.getloadavg()[0],
        "seconds": options.seconds,
        "failures": [],
        "rounds": [],
    }
    os.sched_setaffinity(0, {cores[1]})
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    picture = bytes.fromhex(output_of([sys.executable, "-m", "benchmarks.inprocess", "picture"], cores[0]))
    for number in range(1, options.rounds + 1):
        measured: dict[str, Any] = {"loads": {}}
        results["rounds"].append(measured)
        for name in options.only:
            print(f"Round {number} of {options.rounds}: {name}", flush=True)
            try:
                _measure(name, measured, cores[0], options, picture)
            except Exception as error:  # whose figures are missing, for the others' sake
                print(error, file=sys.stderr)
                reason = str(error).partition("\n")[0] or type(error).__name__
                results["failures"].append(f"{name}, round {number}: {reason}")
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        report.write(options.out)
    print((options.out / "serving.md").read_text())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*CONTENDERS, *SECTIONS]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="length of a load")
    parser.add_argument("--only", nargs="+", choices=every, default=every, metavar="NAME", help=", ".join(every))
    parser.add_argument("--quick", action="store_true", help="one round of one second, fewer points: does it work?")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1
    return options


def _measure(name: str, measured: dict[str, Any], core: int, options: argparse.Namespace, picture: bytes) -> None:
    match name:
        case "bulk":
            measured[name] = bulk.measure(core, options.seconds)
        case "startup":
            measured[name] = startup.measure(core, 1 if options.quick else STARTS)
        case "workers":
            measured[name] = workers.measure(core, options.seconds)
        case "slow":
            measured[name] = slow.measure(core, options.seconds)
        case "counting":
            measured[name] = counting.measure(core, max(1, options.seconds // 2))
        case _:
            curve = QUICK_CURVE if options.quick else loads.CURVE
            measured["loads"][name] = loads.measure(name, curve, core, options.seconds, picture)


def _cores() -> tuple[int, int]:
    """The server's and the client's."""
    missing = [program for program in ("wrk", "taskset") if shutil.which(program) is None]
    cores = sorted(os.sched_getaffinity(0))
    if missing or len(cores) < 2:
        sys.exit(f"make bench wants {', '.join([*missing, 'two cores'])}.")
    return cores[0], cores[1]


def _versions() -> dict[str, str]:
    frameworks = {name: framework_version(name) for name in ("litserve", "bentoml", "ray")}
    return {**{name: version(name) for name in PACKAGES}, **frameworks, "wrk": wrk.version()}


if __name__ == "__main__":
    main()
