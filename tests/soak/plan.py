"""How much of everything, and where."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

Figures = dict[str, float]
"""What a part has measured, by name; tests/soak/goals.py says what each has to be."""
PROBLEMS_TOLD = 40


@dataclass(frozen=True)
class Plan:
    """The whole run by default."""

    core: int
    """The service's own; the suite is on another where there is one."""
    answers: int = 50_000
    requests: int = 1_000_000
    bad_inputs: int = 110_000
    kills: int = 5
    blocks: bool = True
    """Is an event loop blocked? It takes half a minute."""
    stops: int = 100
    overload_s: float = 40
    slow_s: int = 60
    """A slow reader may keep a connection for 35 s: READER_CREDIT in service/http/connection.py."""
    slow_connections: int = 2500
    """More than the queues of both workers have places by default."""
    brief_attacks: bool = False
    """Are only those attacks sent that `make test` sends too?"""
    attackers: int = 200
    """Connections, at most, that send an attack at once."""
    timed_bad_inputs: int = 200
    """Of each kind, while the event loop is timed."""
    pillow_images: bool = True
    """Are the images sent that Pillow is tested with? They are downloaded first."""
    steady_reader_s: int = 25
    """How long the steady readers read an answer at 40 kB/s, in seconds."""
    memory_callers: int = 200
    """Of each kind."""
    examples: int = 500
    """Of each property of the parsers."""

    @classmethod
    def quick(cls, core: int) -> Plan:
        """About a minute: does it all work?"""
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
    """What a part has come upon."""

    figures: Figures = field(default_factory=dict)
    skipped: str = ""
    """Why nothing was measured."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each thing that went wrong; only the first ones are kept."""

    def complain(self, problem: str) -> None:
        """Keep it, and show it."""
        if len(self.problems) < PROBLEMS_TOLD:
            self.problems.append(problem)
            tell(f"  {problem}")


def tell(line: str) -> None:
    """Show how the run goes on."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()
