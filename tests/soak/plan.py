"""The size of a run."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

Figures = dict[str, float]
"""Measured values of a part by name; tests/soak/goals.py has their limits."""
KEPT_PROBLEMS = 40


@dataclass(frozen=True)
class Plan:
    """Sizes of the parts; the defaults are those of a whole run."""

    core: int
    """Core of the service; the suite runs on another one if there is one."""
    answers: int = 50_000
    requests: int = 1_000_000
    bad_inputs: int = 110_000
    kills: int = 5
    blocks: bool = True
    """Whether to block an event loop, which takes half a minute."""
    stops: int = 100
    overload_s: float = 40
    slow_s: int = 60
    """A slow reader may keep a connection for 35 s: READER_CREDIT in service/http/connection.py."""
    slow_connections: int = 2500
    """More than the default queue limits of both workers."""
    brief_attacks: bool = False
    """Whether to send only the attacks of `make test`."""
    attackers: int = 200
    """Most connections that send an attack at once."""
    timed_bad_inputs: int = 200
    """Bad inputs of each kind while the event loop is measured."""
    pillow_images: bool = True
    """Whether to send the images of Pillow's tests, which are downloaded first."""
    steady_reader_s: int = 25
    """Seconds for which the steady readers read a response at 40 kB/s."""
    memory_callers: int = 200
    """Clients of each attack."""
    examples: int = 500
    """Examples of each property test."""

    @classmethod
    def quick(cls, core: int) -> Plan:
        """A run of about a minute, to check that the parts work."""
        return cls(
            core,
            answers=3_000,
            requests=20_000,
            bad_inputs=5_000,
            kills=1,
            blocks=False,
            stops=2,
            overload_s=4,
            slow_s=4,
            slow_connections=100,
            brief_attacks=True,
            attackers=16,
            timed_bad_inputs=10,
            pillow_images=False,
            steady_reader_s=3,
            memory_callers=30,
            examples=20,
        )


@dataclass
class Findings:
    """The results of a part."""

    figures: Figures = field(default_factory=dict)
    skipped: str = ""
    """Why nothing was measured; empty otherwise."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each thing that went wrong; only the first ones are kept."""

    def add_problem(self, problem: str) -> None:
        """Add a problem, and log it."""
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(problem)
            log_progress(f"  {problem}")


def log_progress(line: str) -> None:
    """Log a line on standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()
