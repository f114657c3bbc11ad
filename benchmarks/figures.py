"""What follows from the measurements of one round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

Round = Mapping[str, Any]
"""What one round measured: `loads`, `bulk`, `startup`, `workers`, `slow`, `counting`, as modules so named give it."""
Load = Mapping[str, Any]
"""A `wrk.Load`, as read from JSON."""
Figure = Callable[[Round], float]
"""Raises KeyError where the round has not measured it, InvalidLoad where it has in vain."""


class InvalidLoad(Exception):
    """A load that says nothing, and why."""


def rate(load: Load) -> float:
    """Requests per second."""
    return float(load["requests"] / load["seconds"])


def valid(load: Load) -> Load:
    """The load itself, unless a request of it has failed."""
    if load["errors"]:
        raise InvalidLoad(f"{load['errors']} of {load['requests']} requests failed")
    return load


def load_of(measured: Round, contender: str, call: str = "decode", connections: int = 32) -> Load:
    return valid(measured["loads"][contender][f"{call}/{connections}"])


def rate_of(contender: str, call: str = "decode", connections: int = 32) -> Figure:
    return lambda measured: rate(load_of(measured, contender, call, connections))


def spread_of(contender: str, connections: int) -> Figure:
    """p99 / p50."""

    def figure(measured: Round) -> float:
        load = load_of(measured, contender, connections=connections)
        return float(load["p99_ms"] / load["p50_ms"])

    return figure


def against(figure: Figure, other: Figure) -> Figure:
    return lambda measured: figure(measured) / other(measured)


def litserve(measured: Round) -> float:
    """The better of both."""
    return max(rate_of(name)(measured) for name in ("litserve-64", "litserve-1"))


def best_of_curve(measured: Round) -> float:
    """Of any number of connections."""
    return max(rate(valid(load)) for key, load in measured["loads"]["ours"].items() if key.startswith("decode/"))


def p50_alone(contender: str) -> Figure:
    """Of one connection, ms."""
    return lambda measured: float(load_of(measured, contender, connections=1)["p50_ms"])


def bulk(kind: str) -> Figure:
    """Latents per second."""
    return lambda measured: float(measured["bulk"][kind])


def startup(kind: str) -> Figure:
    """Seconds."""
    return lambda measured: median(measured["startup"][kind])


def torch_mb(measured: Round) -> float:
    return float(measured["workers"]["torch_mb"])


def memory_mb(workers: int) -> Figure:
    """Of all processes."""
    return lambda measured: float(sum(measured["workers"][str(workers)]["memory_mb"]))


def extra_mb(measured: Round) -> float:
    """Of one worker, above a process that has imported torch."""
    return memory_mb(1)(measured) - torch_mb(measured)


def added_memory(measured: Round) -> float:
    """What a second worker adds, as a part of the first."""
    return memory_mb(2)(measured) / memory_mb(1)(measured) - 1


def cpu_seconds(workers: int) -> Figure:
    """Per 1,000 requests."""

    def figure(measured: Round) -> float:
        result = measured["workers"][str(workers)]
        valid(result["load"])
        return float(result["cpu_seconds_per_1000"])

    return figure


def slow_throughput(measured: Round) -> float:
    """As a part of what whole batches would give."""
    slow = measured["slow"]
    shard = rate(valid(slow["64"]["decode"])) / float(slow["best"])
    if shard > 1.05:
        raise InvalidLoad("the model was not slow")
    return shard


def slow_livez_ms(measured: Round) -> float:
    """p99."""
    return float(valid(measured["slow"]["64"]["livez"])["p99_ms"])


def counting(measured: Round) -> float:
    """Requests per second with counting, as a part of those without it."""
    rates = measured["counting"]
    return float(median(rates["counted"]) / median(rates["uncounted"]))
