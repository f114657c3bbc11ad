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

from service.telemetry.counters import BOUNDS, CountersByModel

RELEASE_EVERY = 32
"""Samples that are rendered, in less than a millisecond, before the GIL is released."""
RELEASE_S = 0.0001
"""Seconds to sleep with the GIL released: `time.sleep(0)` takes it again before another thread has woken up."""
MODEL = ("model", "version")
"""Labels of what belongs to a model; empty for what belongs to none."""
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


def render(
    snapshots: Sequence[bytes],
    gauges: Mapping[str, str],
    info: Sequence[Mapping[str, str]],
    failed: Mapping[tuple[str, str], bool],
) -> bytes:
    """Render the sum of the workers' snapshots.

    Args:
        snapshots: As `Metrics.publish` writes them.
        gauges: Help text of each gauge.
        info: Labels of vae_model_info for each model.
        failed: Whether the newest files of each model cannot be served.

    """
    counters, values, process = CountersByModel(), Counter[tuple[str, str, str]](), Counter[str]()
    starts = 0
    for each in snapshots:
        time.sleep(RELEASE_S)
        snapshot = orjson.loads(each)
        counters.add(snapshot["counters"])
        starts += snapshot["starts"]
        values.update({(name, model, version): value for name, model, version, value in snapshot["gauges"]})
        process.update(snapshot["process"])
    replacements = CounterMetricFamily(
        "vae_worker_replacements",
        "Workers started in the place of one that died or was stuck",
        value=starts - len(snapshots),
    )
    models = GaugeMetricFamily("vae_model_info", "The models that are served", labels=list(info[0]) if info else [])
    for labels in info:
        models.add_metric(list(labels.values()), 1)
    failures = GaugeMetricFamily("vae_model_failed", "Models whose newest files cannot be served", labels=MODEL)
    for model, has_failed in failed.items():
        failures.add_metric(model, has_failed)
    of_gauges = (_gauge(name, text, values) for name, text in gauges.items())
    registry = CollectorRegistry()
    registry.register(
        _Families(
            itertools.chain(_families_of(counters), [replacements], of_gauges, _of_process(process), [models, failures])
        )
    )
    return generate_latest(registry)


def _gauge(name: str, text: str, values: Mapping[tuple[str, str, str], float]) -> Metric:
    of_models = any(model for other, model, _ in values if other == name)
    family = GaugeMetricFamily(name, text, labels=MODEL if of_models else [])
    for (other, *model), value in sorted(values.items()):
        if other == name:
            family.add_metric(model if of_models else [], value)
    return family


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


def _families_of(by_model: CountersByModel) -> Iterator[Metric]:
    models = sorted(by_model.items())
    requests = CounterMetricFamily(
        "vae_requests", "Requests answered", labels=["route", "method", "status", "media_type", *MODEL]
    )
    for model, counters in models:
        for labels, count in sorted(counters.requests.items()):
            requests.add_metric([*map(str, labels), *model], count)
    yield requests
    refusals = CounterMetricFamily(
        "vae_refusals", "Requests refused, and answers that failed", labels=["reason", *MODEL]
    )
    for model, counters in models:
        for reason, count in sorted(counters.refusals.items()):
            refusals.add_metric([reason, *model], count)
    yield refusals
    for name, (documentation, label) in HISTOGRAMS.items():
        family = HistogramMetricFamily(name, documentation, labels=[*([label] if label else []), *MODEL])
        bounds = [*(f"{bound:g}" for bound in BOUNDS[name]), "+Inf"]
        for model, counters in models:
            of_this = sorted((value, each) for (other, value), each in counters.histograms.items() if other == name)
            for value, each in of_this:
                buckets = list(zip(bounds, itertools.accumulate(each.counts), strict=True))
                family.add_metric([*([value] if label else []), *model], buckets, each.total)
        yield family
