"""What the service has counted, for Prometheus; right with several workers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from service.telemetry.counters import BOUNDS, Counters
from service.telemetry.shared_memory import SharedSnapshots

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
POST_EVERY_S = 1
RELEASE_EVERY = 32
"""Samples that are rendered without a pause, in less than a millisecond."""
RELEASE_S = 0.0001
"""Seconds of a pause: `time.sleep(0)` takes the interpreter's lock again before another thread has woken up."""
HISTOGRAMS = {
    "vae_request_duration_seconds": ("From a request's head to the end of its answer", "route"),
    "vae_queue_duration_seconds": ("What a request waited to be computed", "operation"),
    "vae_compute_duration_seconds": ("Computing a batch", "operation"),
    "vae_batch_rows": ("Images or latents of a batch", "operation"),
    "vae_kl_divergence_nats": ("KL divergence of an encoded image's posterior from the prior", ""),
    "vae_reconstruction_loss_nats": ("Reconstruction loss of an image, where it was asked for", ""),
    "vae_latent_distance": ("Euclidean distance of a decoded latent from the prior's mean", ""),
}
"""Name → help and label."""
CPU = "process_cpu_seconds_total"
PROCESS = {
    CPU: "Processor time of the workers",
    "process_resident_memory_bytes": "Memory of the workers, shared pages counted for each",
    "process_open_fds": "Open file descriptors of the workers",
}


class Metrics:
    """What one worker counts. Each second it is posted on the board, where every worker finds it."""

    def __init__(self, board: SharedSnapshots, place: int) -> None:
        """A worker that takes another's `place` on the board goes on with its counts."""
        self.counters = Counters()
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        """Name → help, and whom to ask for the value."""
        self.info: Mapping[str, str] = {}
        """The labels of vae_model_info."""
        self._board = board
        self._place = place
        self._collector = ProcessCollector(registry=None)
        self._process: dict[str, float] = {}
        """As last seen: without a free file descriptor nothing is."""
        self._cpu_before = 0.0
        """Of those whose place this is."""
        self._is_rendering = asyncio.Lock()
        self._next: asyncio.Task[bytes] | None = None
        """Renders once no other one is being rendered."""
        if before := board.read(place):
            notice = orjson.loads(before)
            self.counters.add(notice["tally"])
            self._cpu_before = notice["process"].get(CPU, 0)
        self.counters.starts += 1

    def keep_posting(self) -> None:
        """Post now, and again as long as the event loop turns, whatever becomes of this one."""
        asyncio.get_running_loop().call_later(POST_EVERY_S, self.keep_posting)
        self.post()

    def post(self) -> None:
        """Let the other workers know."""
        samples = (sample for metric in self._collector.collect() for sample in metric.samples)
        self._process |= {sample.name: sample.value for sample in samples if sample.name in PROCESS}
        notice = {
            "tally": self.counters.document(),
            "gauges": {name: ask() for name, (_, ask) in self.gauges.items()},
            "process": self._process | {CPU: self._process.get(CPU, 0) + self._cpu_before},
        }
        self._board.post(self._place, orjson.dumps(notice))

    async def exposition(self) -> bytes:
        """What all workers have counted so far, in Prometheus' text format.

        It is rendered in a thread, one text at a time; callers who come meanwhile share the next one.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._render_next())
        return await asyncio.shield(self._next)  # a caller who has gone does not cancel it for the others

    async def _render_next(self) -> bytes:
        async with self._is_rendering:
            self._next = None
            self.post()
            return await asyncio.to_thread(self._render, self._board.read_all())

    def _render(self, posted: Sequence[bytes]) -> bytes:
        counters, gauges, process = Counters(), Counter[str](), Counter[str]()
        for each in posted:
            time.sleep(RELEASE_S)
            notice = orjson.loads(each)
            counters.add(notice["tally"])
            gauges.update(notice["gauges"])
            process.update(notice["process"])
        replacements = CounterMetricFamily(
            "vae_worker_replacements",
            "Workers started in the place of one that died or was stuck",
            value=counters.starts - len(posted),
        )
        registry = CollectorRegistry()
        families = itertools.chain(_families_of(counters), [replacements], self._other_families(gauges, process))
        registry.register(_Families(families))
        return generate_latest(registry)

    def _other_families(self, gauges: Mapping[str, float], process: Mapping[str, float]) -> Iterator[Metric]:
        for name, (documentation, _) in self.gauges.items():
            yield GaugeMetricFamily(name, documentation, value=gauges[name])
        for name, value in process.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield kind(name, PROCESS[name], value=value)
        info = GaugeMetricFamily("vae_model_info", "The model that is served", labels=list(self.info))
        info.add_metric(list(self.info.values()), 1)
        yield info


class _Families(Collector):
    """Metrics made elsewhere, as a registry takes them, once."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            family.samples = _releasing(family.samples)  # type: ignore[assignment]  # it is gone through once
            yield family


def _releasing(samples: Iterable[Sample]) -> Iterator[Sample]:
    """`samples`, with the interpreter's lock released now and then: the event loop would wait 5 ms for it."""
    for number, sample in enumerate(samples):
        if number % RELEASE_EVERY == 0:
            time.sleep(RELEASE_S)
        yield sample


def _families_of(counters: Counters) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "vae_requests", "Requests answered", labels=["route", "method", "status", "media_type"]
    )
    for labels, count in sorted(counters.requests.items()):
        requests.add_metric([str(label) for label in labels], count)
    yield requests
    refusals = CounterMetricFamily("vae_refusals", "Requests refused, and answers that failed", labels=["reason"])
    for reason, count in sorted(counters.refusals.items()):
        refusals.add_metric([reason], count)
    yield refusals
    for name, (documentation, label) in HISTOGRAMS.items():
        family = HistogramMetricFamily(name, documentation, labels=[label] if label else [])
        of_this = sorted((value, each) for (other, value), each in counters.histograms.items() if other == name)
        for value, each in of_this:
            bounds = [*(f"{bound:g}" for bound in BOUNDS[name]), "+Inf"]
            buckets = list(zip(bounds, itertools.accumulate(each.counts), strict=True))
            family.add_metric([value] if label else [], buckets, each.total)
        yield family
