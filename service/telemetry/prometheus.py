"""The metrics of all workers, for Prometheus."""

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
PUBLISH_INTERVAL_S = 1
"""Seconds between two snapshots, and so the age of other workers' values in a scrape."""
RELEASE_EVERY = 32
"""Samples that are rendered, in less than a millisecond, before the GIL is released."""
RELEASE_S = 0.0001
"""Seconds to sleep with the GIL released: `time.sleep(0)` takes it again before another thread has woken up."""
HISTOGRAMS = {
    "vae_request_duration_seconds": ("From a request's head to the end of its answer", "route"),
    "vae_queue_duration_seconds": ("What a request waited to be computed", "operation"),
    "vae_compute_duration_seconds": ("Computing a batch", "operation"),
    "vae_batch_rows": ("Images or latents of a batch", "operation"),
    "vae_kl_divergence_nats": ("KL divergence of an encoded image's posterior from the prior", ""),
    "vae_reconstruction_loss_nats": ("Reconstruction loss of an image, where it was asked for", ""),
    "vae_latent_distance": ("Euclidean distance of a decoded latent from the prior's mean", ""),
}
"""Help text and label of each histogram."""
CPU = "process_cpu_seconds_total"
PROCESS = {
    CPU: "Processor time of the workers",
    "process_resident_memory_bytes": "Memory of the workers, shared pages counted for each",
    "process_open_fds": "Open file descriptors of the workers",
}


class Metrics:
    """The metrics of one worker, which publishes them each second, so that every worker can give those of all."""

    def __init__(self, snapshots: SharedSnapshots, worker: int) -> None:
        """`worker` is an index into `snapshots`; its counters continue those of its predecessor."""
        self.counters = Counters()
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        """Help text and value of each gauge."""
        self.info: Mapping[str, str] = {}
        """Labels of vae_model_info."""
        self._snapshots = snapshots
        self._worker = worker
        self._collector = ProcessCollector(registry=None)
        self._process: dict[str, float] = {}
        """Latest values of the process; without a free file descriptor there are no newer ones."""
        self._cpu_before = 0.0
        """CPU seconds of this worker's predecessors."""
        self._is_rendering = asyncio.Lock()
        self._next: asyncio.Task[bytes] | None = None
        """The rendering that waits for the current one."""
        if before := snapshots.read(worker):
            snapshot = orjson.loads(before)
            self.counters.add(snapshot["counters"])
            self._cpu_before = snapshot["process"].get(CPU, 0)
        self.counters.starts += 1

    def keep_publishing(self) -> None:
        """Publish now and each second, even if this time fails."""
        asyncio.get_running_loop().call_later(PUBLISH_INTERVAL_S, self.keep_publishing)
        self.publish()

    def publish(self) -> None:
        """Publish a snapshot for the other workers."""
        samples = (sample for metric in self._collector.collect() for sample in metric.samples)
        self._process |= {sample.name: sample.value for sample in samples if sample.name in PROCESS}
        snapshot = {
            "counters": self.counters.snapshot(),
            "gauges": {name: value() for name, (_, value) in self.gauges.items()},
            "process": self._process | {CPU: self._process.get(CPU, 0) + self._cpu_before},
        }
        self._snapshots.publish(self._worker, orjson.dumps(snapshot))

    async def exposition(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format.

        They are rendered in a thread, once at a time; requests that arrive meanwhile share the next rendering.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._render_next())
        return await asyncio.shield(self._next)  # a client that disconnects does not cancel it for the others

    async def _render_next(self) -> bytes:
        async with self._is_rendering:
            self._next = None
            self.publish()
            return await asyncio.to_thread(self._render, self._snapshots.read_all())

    def _render(self, snapshots: Sequence[bytes]) -> bytes:
        counters, gauges, process = Counters(), Counter[str](), Counter[str]()
        for each in snapshots:
            time.sleep(RELEASE_S)
            snapshot = orjson.loads(each)
            counters.add(snapshot["counters"])
            gauges.update(snapshot["gauges"])
            process.update(snapshot["process"])
        replacements = CounterMetricFamily(
            "vae_worker_replacements",
            "Workers started in the place of one that died or was stuck",
            value=counters.starts - len(snapshots),
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
    """A collector of given metrics, for one scrape."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            family.samples = _releasing(family.samples)  # type: ignore[assignment]  # it is iterated once
            yield family


def _releasing(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Yield `samples`, and release the GIL now and then: the event loop would wait 5 ms for it."""
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
