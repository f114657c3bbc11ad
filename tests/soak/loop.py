"""No request blocks an event loop for longer than 250 ms, whatever and however many are sent at once."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.soak import heartbeat
from tests.soak.attack_requests import Attack
from tests.soak.attacker import LIMIT_S, Outcome, send_at_once
from tests.soak.attacks import attacks
from tests.soak.bad_inputs import MAKERS, bad_input
from tests.soak.heartbeat import BEAT_S, Clock
from tests.soak.plan import Findings, Plan, log_progress
from tests.soak.server import serving

GAP_LIMIT_S = 0.25
"""Longest accepted time between two turns of an event loop, in seconds. A probe with a timeout of a second still passes
when a few of these follow one another."""
TRIES = 3
"""Measurements, of which the shortest gap counts, as other processes on the machine can delay one of them."""
HOPELESS = 4
"""A gap of this multiple of the limit is not measured again."""
CLIENT_TIMEOUT_S = 2.0
"""Seconds for which the service waits for the rest of an incomplete request; its default is 10."""
TELL_EVERY = 500


class Measured(NamedTuple):
    """The effect of an attack."""

    gap_s: float
    """Longest time for which an event loop was blocked, in seconds."""
    outcomes: list[Outcome]

    def faults(self, attack: Attack) -> list[str]:
        """What is wrong with the results, each fault once."""
        faults = [f"the event loop was blocked for {1000 * self.gap_s:.0f} ms"] if self.gap_s > GAP_LIMIT_S else []
        return faults + sorted({fault for outcome in self.outcomes if (fault := outcome.fault(attack))})


async def measure(port: int, clock: Clock, attack: Attack, times: int = 1, limit_s: float = LIMIT_S) -> Measured:
    """Send an attack on `times` connections at once; again if the gap is too long."""
    measured = await _measure_once(port, clock, attack, times, limit_s)
    for _ in range(TRIES - 1):
        if not GAP_LIMIT_S < measured.gap_s < HOPELESS * GAP_LIMIT_S:
            break
        again = await _measure_once(port, clock, attack, times, limit_s)
        measured = min(measured, again, key=lambda each: each.gap_s)
    return measured


async def _measure_once(port: int, clock: Clock, attack: Attack, times: int, limit_s: float) -> Measured:
    with suppress(TimeoutError):  # earlier requests may still be processed
        async with asyncio.timeout(LIMIT_S):
            while not clock.is_turning():  # noqa: ASYNC110 - another process sets it
                await asyncio.sleep(0.02)
    clock.reset()
    outcomes = await send_at_once(port, attack, times, limit_s)
    await asyncio.sleep(2 * BEAT_S)
    return Measured(clock.longest_gap_s(), outcomes)


async def run(plan: Plan) -> Findings:
    """Send each attack alone, then the floods, then bad inputs of each kind."""
    findings = Findings()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "beats"
        clock = heartbeat.create(file)
        async with serving(
            plan.core, "--client-timeout", str(CLIENT_TIMEOUT_S), str(file), module=heartbeat.__name__
        ) as server:
            workers = server.workers()
            chosen = list(_chosen(plan))
            longest = 0.0
            blocked = wrong = 0
            for number, (attack, times) in enumerate(chosen):
                if number % TELL_EVERY == 0:
                    log_progress(f"  {number:,} of {len(chosen):,} attacks")
                measured = await measure(server.port, clock, attack, times)
                longest = max(longest, measured.gap_s)
                blocked += measured.gap_s > GAP_LIMIT_S
                wrong += any(outcome.fault(attack) for outcome in measured.outcomes)
                for fault in measured.faults(attack):
                    findings.add_problem(f"{attack.name}{f' × {times}' if times > 1 else ''}: {fault}.")
            findings.figures = {
                "attacks": len(chosen),
                "blocked": blocked,
                "longest gap, ms": 1000 * longest,
                "answered wrongly": wrong,
                "workers lost": len(workers - server.workers()),
                "tracebacks": server.tracebacks(),
            }
    return findings


def _chosen(plan: Plan) -> Iterator[tuple[Attack, int]]:
    """Attacks, and the number of connections for each."""
    some = [attack for attack in attacks() if attack.brief or not plan.brief_attacks]
    yield from ((attack, 1) for attack in some)
    yield from ((attack, min(attack.times, plan.attackers)) for attack in some if attack.times > 1)
    for number in range(len(MAKERS) * plan.timed_bad_inputs):
        bad = bad_input(number)
        yield Attack(f"bad input {number} ({bad.kind})", partial(bytes, bad.data), framed=False), 1
