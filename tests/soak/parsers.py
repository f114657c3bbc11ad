"""Property tests of all parsers and routes with more examples than the test suite uses."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.soak.plan import Findings, Plan

TESTS = Path(__file__).parent.parent / "fuzz"
COUNTED = re.compile(r"(\d+) (passed|failed|error)")


async def run(plan: Plan) -> Findings:
    """Run tests/fuzz with new examples; failures are reported with the arguments that reproduce them."""
    findings = Findings()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "--show-capture=no", "-p", "no:cacheprovider", str(TESTS)),
        env={**os.environ, "FUZZ_EXAMPLES": str(plan.examples)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the service's log
    )
    told = (await process.communicate())[0].decode()
    counted = {what: int(count) for count, what in COUNTED.findall(told.splitlines()[-1])}
    for line in told.splitlines():
        if line.startswith(("FAILED", "ERROR ")) or "reproduce" in line:
            findings.add_problem(line)
    findings.figures = {
        "properties": counted.get("passed", 0),
        "inputs for each": plan.examples,
        "failed": counted.get("failed", 0) + counted.get("error", 0),
    }
    return findings
