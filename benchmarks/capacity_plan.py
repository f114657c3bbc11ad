"""From what was measured of one worker to what many do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.capacity_measure import BATCH_LIMIT
from benchmarks.capacity_simulation import RollOut, Service, Simulation
from benchmarks.figures import Round, added_memory, memory_mb

ROOT = Path(__file__).parent.parent
PODS = ROOT / "deploy" / "kubernetes"
POLICIES = {"random": 1, "the better of two": 2, "least in flight": 10}
UTILISATIONS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.05)
WORKERS = 10
"""Behind the load balancer that is simulated."""
ROLLED = 4
"""Processes that are replaced; a simulation of more takes minutes and says the same."""
WAITS_S = (0, 2, 5)
PLANNED = 0.7
"""Utilisation at which a worker is planned to run; at which a roll-out is simulated."""
Results = Mapping[str, Any]
"""capacity.json."""


def service_of(results: Results) -> Service:
    """What the simulation is fed with; beyond the largest batch seen a straight line goes on."""
    curve = sorted((point["rows"], point["busy_s"], point["compute_s"]) for point in results["curve"])
    least, most = curve[0], curve[-1]
    if most[0] < BATCH_LIMIT:
        beyond = (BATCH_LIMIT - most[0]) / (most[0] - least[0])
        curve.append(tuple(last + beyond * (last - first) for first, last in zip(least, most, strict=True)))
    rows, busy, compute = zip(*curve, strict=True)
    quiet = results["poisson"][0]["p50_s"] if "poisson" in results else 0
    return Service(rows, busy, compute, wake=max(0, quiet - busy[0]))


def simulate(results: Results) -> dict[str, Any]:
    """What was measured again, what it is over utilisation, and a roll-out."""
    service = service_of(results)
    return {
        "validation": [told(service, load["rate"], 1, 1, 20) for load in results["poisson"]],
        "waiting": [
            {"utilisation": share, "policy": policy}
            | told(service, share * WORKERS * service.best_rate, WORKERS, choices, 2)
            for share in UTILISATIONS
            for policy, choices in POLICIES.items()
        ],
        "roll_out": [rolled_out(service, results["bench"]["start_s"], wait) for wait in WAITS_S],
    }


def told(service: Service, rate: float, workers: int, choices: int, seconds: float) -> dict[str, float]:
    """A simulation's figures; what is in flight is that of one worker, by Little's law."""
    outcome = Simulation(service, rate, workers, choices).run(seconds)
    answered_s = sum(outcome.seconds)
    return {
        "p50_s": outcome.percentile(50),
        "p99_s": outcome.percentile(99),
        "in_flight": rate * (answered_s / len(outcome.seconds)) / workers,
        "refused": outcome.refused / outcome.requests,
    }


def rolled_out(service: Service, start: float, wait: float) -> dict[str, float]:
    """What becomes of the requests while all workers are replaced, one after the other."""
    heard = heard_s()
    plan = RollOut(begin=1, start=start, heard=heard, wait=wait)
    seconds = 2 + ROLLED * (start + heard) + max(WAITS_S)
    outcome = Simulation(service, PLANNED * ROLLED * service.best_rate, ROLLED, 2).run(seconds, plan)
    return {
        "wait_s": wait,
        "requests": outcome.requests,
        "refused": outcome.refused,
        "lost": outcome.lost,
        "p99_s": outcome.percentile(99),
        "took_s": outcome.ended - plan.begin,
    }


def pod_flags() -> list[str]:
    """What the pods are set to that is of weight, as flags."""
    lines = (PODS / "settings.env").read_text().split()
    settings = dict(line.removeprefix("VAE_").lower().split("=", 1) for line in lines)
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name.endswith("_limit")]


def heard_s() -> float:
    """In which a load balancer that asks as Kubernetes does has heard that a worker goes."""
    deployment = yaml.safe_load((PODS / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    probe = container["readinessProbe"]
    return float(probe["periodSeconds"] * probe["failureThreshold"])


def of_bench() -> dict[str, float]:
    """What `make bench` has measured: from exec to ready, memory of a first worker and of each further one."""
    rounds: Sequence[Round] = json.loads((ROOT / "benchmarks" / "results.json").read_text())["rounds"]
    first = median(memory_mb(1)(measured) for measured in rounds)
    return {
        "start_s": median(second for measured in rounds for second in measured["startup"]["ready"]),
        "first_mb": first,
        "further_mb": first * median(added_memory(measured) for measured in rounds),
    }
