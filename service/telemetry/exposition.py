"""Prometheus' text format. It is imported for the first scrape: prometheus_client takes 10 ms and 3 MB."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from service.telemetry.counters import BOUNDS, Counters

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
PROCESS = {
    "process_cpu_seconds_total": "Processor time of the workers",
    "process_resident_memory_bytes": "Memory of the workers, shared pages counted for each",
    "process_open_fds": "Open file descriptors of the workers",
}


def render(snapshots: Sequence[bytes], gauges: Mapping[str, str], info: Mapping[str, str]) -> bytes:
    """Render the sum of the workers' snapshots.

    Args:
        snapshots: As `Metrics.publish` writes them.
        gauges: Help text of each gauge.
        info: Labels of vae_model_info.

    """
    counters, values, process = Counters(), Counter[str](), Counter[str]()
    for each in snapshots:
        time.sleep(RELEASE_S)
        snapshot = orjson.loads(each)
        counters.add(snapshot["counters"])
        values.update(snapshot["gauges"])
        process.update(snapshot["process"])
    replacements = CounterMetricFamily(
        "vae_worker_replacements",
        "Workers started in the place of one that died or was stuck",
        value=counters.starts - len(snapshots),
    )
    model = GaugeMetricFamily("vae_model_info", "The model that is served", labels=list(info))
    model.add_metric(list(info.values()), 1)
    of_gauges = (GaugeMetricFamily(name, text, value=values[name]) for name, text in gauges.items())
    registry = CollectorRegistry()
    registry.register(
        _Families(itertools.chain(_families_of(counters), [replacements], of_gauges, _of_process(process), [model]))
    )
    return generate_latest(registry)


def _of_process(values: Mapping[str, float]) -> Iterator[Metric]:
    for name, value in values.items():
        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        yield kind(name, PROCESS[name], value=value)


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
