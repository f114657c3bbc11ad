"""What is told, and what is to be reached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks import figures as f


@dataclass(frozen=True)
class Row:
    """A figure of a round and its goals, if it has any: at least so much, or at most."""

    title: str
    figure: f.Figure
    goal: float | None = None
    stretch: float | None = None
    at_most: bool = False

    def values(self, rounds: Iterable[f.Round]) -> list[float]:
        """One for each round that has measured it; raises InvalidLoad."""
        values = []
        for measured in rounds:
            try:
                values.append(self.figure(measured))
            except KeyError:
                continue
        return values

    def reached(self, value: float) -> str:
        """The highest goal that `value` reaches."""
        if self.stretch is not None and self._reaches(value, self.stretch):
            return "stretch"
        return "yes" if self.goal is not None and self._reaches(value, self.goal) else "no"

    def _reaches(self, value: float, goal: float) -> bool:
        return value <= goal if self.at_most else value >= goal


OURS, NOOP = f.rate_of("ours"), f.rate_of("noop")
GOALS = (
    Row("decode, requests/s against the limit, a bare ASGI function", f.against(OURS, f.rate_of("bare")), 0.40, 0.55),
    Row("… against FastAPI doing nothing", f.against(OURS, NOOP), 1.4, 2.0),
    Row("… against LitServe, the better of both", f.against(OURS, f.litserve), 13),
    Row("… against BentoML", f.against(OURS, f.rate_of("bentoml")), 20),
    Row("… against Ray Serve", f.against(OURS, f.rate_of("ray")), 80),
    Row("encode, requests/s against FastAPI doing nothing", f.against(f.rate_of("ours", "encode"), NOOP), 1.0, 1.4),
    Row("reconstruct, the same", f.against(f.rate_of("ours", "reconstruct"), NOOP), 0.8, 1.2),
    Row("sample, the same", f.against(f.rate_of("ours", "sample"), NOOP), 0.8, 1.2),
    Row("decode, p99 / p50 at 32 connections", f.spread_of("ours", 32), 1.6, at_most=True),
    Row("… at 128 connections", f.spread_of("ours", 128), 1.6, at_most=True),
    Row(
        "decode, requests/s at 512 connections against the best of the curve",
        f.against(f.rate_of("ours", "decode", 512), f.best_of_curve),
        0.85,
    ),
    Row(
        "decode, p50 of one connection against FastAPI doing nothing",
        f.against(f.p50_alone("ours"), f.p50_alone("noop")),
        1.5,
        1.2,
        at_most=True,
    ),
    Row(
        "10,000 latents npy → npy against the engine in process",
        f.against(f.bulk("npy"), f.bulk("in_process")),
        0.7,
        0.9,
    ),
    Row("… JSON → npy", f.against(f.bulk("json"), f.bulk("in_process")), 0.4),
    Row(
        "from exec to ready against `import torch`",
        f.against(f.startup("ready"), f.startup("import_torch")),
        1.3,
        1.1,
        at_most=True,
    ),
    Row("memory of a worker above a process with torch, MB", f.extra_mb, 60, at_most=True),
    Row("memory that a second worker adds, of the first's", f.added_memory, 0.6, at_most=True),
    Row(
        "processor time per request, 2 workers against 1",
        f.against(f.cpu_seconds(2), f.cpu_seconds(1)),
        1.1,
        at_most=True,
    ),
    Row("50 ms a batch, 64 connections: requests/s against whole batches", f.slow_throughput, 0.9),
    Row("… /livez meanwhile, p99 in ms", f.slow_livez_ms, 20, at_most=True),
    Row("decode, requests/s with counting for /metrics against without", f.counting, 0.97),
)
OTHERS = (
    Row("decode, requests/s against FastAPI, plainly written", f.against(OURS, f.rate_of("plain"))),
    Row("… against a bare ASGI function on the same connections", f.against(OURS, f.rate_of("bare-connection"))),
    Row("encode, requests/s", f.rate_of("ours", "encode")),
    Row("reconstruct, requests/s", f.rate_of("ours", "reconstruct")),
    Row("sample, requests/s", f.rate_of("ours", "sample")),
    Row("10,000 latents in process, latents/s", f.bulk("in_process")),
    Row("… npy → npy", f.bulk("npy")),
    Row("… JSON → npy", f.bulk("json")),
    Row('`python -c "import torch"`, s', f.startup("import_torch")),
    Row("from exec to ready, s", f.startup("ready")),
    Row("memory of a process with torch, MB", f.torch_mb),
    Row("memory of 1 worker, MB", f.memory_mb(1)),
    Row("memory of 2 workers with their supervisor, MB", f.memory_mb(2)),
    Row("processor seconds per 1,000 requests, 1 worker", f.cpu_seconds(1)),
    Row("… 2 workers on the same core", f.cpu_seconds(2)),
)
