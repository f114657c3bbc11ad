"""A load and fault test that takes minutes: two workers, over real sockets, with bad inputs and killed processes.

    python -m tests.soak [--quick] [--only NAME ...] [--out FOLDER]

wants Linux, two cores that have nothing else to do, `taskset`, and slowhttptest for one of its parts. It writes
report.json and report.md to FOLDER; the exit status is 1 when a goal is missed. tests/soak/goals.py has the goals.
`--only` runs some of the parts again, and believes the report in FOLDER for the others.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.harness.pages import describe_machine
from tests.soak import (
    answers,
    barrage,
    blocked,
    descriptors,
    faults,
    leak,
    loop,
    memory,
    overload,
    parsers,
    report,
    slow,
    stops,
)
from tests.soak.plan import Findings, Plan, log_progress

HERE = Path(__file__).parent
PARTS: dict[str, Callable[[Plan], Coroutine[Any, Any, Findings]]] = {
    "answers": answers.run,
    "overload": overload.run,
    "faults": faults.run,
    "blocked": blocked.run,
    "stops": stops.run,
    "slow": slow.run,
    "descriptors": descriptors.run,
    "leak": leak.run,
    "barrage": barrage.run,
    "loop": loop.run,
    "memory": memory.run,
    "parsers": parsers.run,
}


def main() -> None:
    options = _options()
    machine = describe_machine()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    plan = Plan.quick(cores[0]) if options.quick else Plan(cores[0])
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "cores": [cores[0], cores[-1]],
        "load_average": os.getloadavg()[0],
        "quick": options.quick,
        "seconds": 0.0,
        "parts": {},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "report.json"
    if len(options.only) < len(PARTS) and file.exists():
        results["parts"] = json.loads(file.read_text())["parts"]
    for name in options.only:
        if name == "blocked" and not plan.blocks:
            continue
        log_progress(name)
        part = _run(name, plan)
        results["parts"][name] = part
        results["seconds"] = sum(each["seconds"] for each in results["parts"].values())
        file.write_text(json.dumps(results, indent=1) + "\n")
        report.write(options.out)
    for line in report.misses(results):
        log_progress(line)
    sys.exit(0 if report.has_passed(results) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute or two, a little of everything: does it work?")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=HERE)
    return parser.parse_args()


def _run(name: str, plan: Plan) -> dict[str, Any]:
    """Run a part and return its findings; an exception in it does not stop the other parts."""
    begun = time.monotonic()
    try:
        findings: Findings = uvloop.run(PARTS[name](plan))
        failed = ""
    except Exception as error:
        traceback.print_exc()
        findings = Findings()
        failed = f"{type(error).__name__}: {error}"
    return {**asdict(findings), "failed": failed, "seconds": round(time.monotonic() - begun, 1)}


if __name__ == "__main__":
    main()
