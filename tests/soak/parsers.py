"""Every parser and every route, with more generated inputs than the tests take time for."""

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
    """tests/fuzz, each time with other inputs; what fails is told with what brings it back."""
    findings = Findings()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "--show-capture=no", "-p", "no:cacheprovider", str(TESTS)),
        env={**os.environ, "FUZZ_EXAMPLES": str(plan.examples)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the log of the service that they ask
    )
    told = (await process.communicate())[0].decode()
    counted = {what: int(count) for count, what in COUNTED.findall(told.splitlines()[-1])}
    for line in told.splitlines():
        if line.startswith(("FAILED", "ERROR ")) or "reproduce" in line:
            findings.complain(line)
    findings.figures = {
        "properties": counted.get("passed", 0),
        "inputs for each": plan.examples,
        "failed": counted.get("failed", 0) + counted.get("error", 0),
    }
    return findings
