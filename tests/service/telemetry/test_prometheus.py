"""GET /metrics, and what counts for it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.errors import ServiceError
from service.telemetry.counters import BOUNDS, REASONS, Histogram
from service.telemetry.exposition import HISTOGRAMS
from service.telemetry.prometheus import CPU, NO_MODEL, Metrics
from service.telemetry.shared_memory import MAX_BYTES, SharedSnapshots
from tests.live import live_server
from tests.service.pictures import Bytes, png
from tests.service.problems import problem
from tests.service.processes.test_supervisor import workers
from tests.service.running import Broken, Running, running, wait_until
from tests.vae.autoencoder import write_folder

PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

pytestmark = pytest.mark.slow


@pytest.fixture
def fresh() -> Iterator[Running]:
    """A service that has counted nothing yet."""
    with running(queue_limit=7) as service:
        yield service


def scrape(client: httpx.Client) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all models."""
    return sum(
        value
        for (other, pairs), value in samples.items()
        if other == name
        and {*pairs} - {*labels.items()} <= {pair for pair in pairs if pair[0] in ("model", "version")}
        and labels.items() <= dict(pairs).items()
    )


def refusals(samples: Samples) -> dict[str, float]:
    reasons = {dict(labels)["reason"] for name, labels in samples if name == "vae_refusals_total"}
    return {
        reason: sum(
            n for (name, labels), n in samples.items() if ("reason", reason) in labels and name == "vae_refusals_total"
        )
        for reason in reasons
    }


def decode(client: httpx.Client, z: object = (3, 4, 0), **headers: str) -> httpx.Response:
    return client.post("/decode", json=z, headers=headers)


def test_requests_by_route_status_and_media_type(fresh: Running) -> None:
    client = fresh.client
    for _ in range(3):
        decode(client)
    decode(client, accept="application/json")
    decode(client, z=[1])
    client.get("/nowhere/at/all")
    client.request("BREW", "/decode")
    samples = scrape(client)

    def requests(route: str, method: str, status: int, media_type: str) -> float:
        return value(
            samples, "vae_requests_total", route=route, method=method, status=str(status), media_type=media_type
        )

    assert requests("/decode", "POST", 200, "image/png") == 3
    assert requests("/decode", "POST", 200, "application/json") == 1
    assert requests("/decode", "POST", 422, "application/problem+json") == 1
    assert requests("other", "GET", 404, "application/problem+json") == 1
    assert value(samples, "vae_request_duration_seconds_count", route="/decode") >= 5
    assert not [labels for name, labels in samples if "nowhere" in str(labels) or "BREW" in str(labels)]


def test_batches_and_what_a_vae_alone_can_tell(fresh: Running, images: Bytes) -> None:
    client = fresh.client
    decode(client)
    decode(client, z=[[0, 0, 0], [0, 0, 2]])
    sent: Any = {"content": png(images[0]), "headers": {"content-type": "image/png", "accept": "application/json"}}
    client.post("/encode", **sent)
    reconstruction = client.post("/reconstruct", **sent).json()
    samples = scrape(client)
    assert value(samples, "vae_batch_rows_count", operation="draw") == 2
    assert value(samples, "vae_batch_rows_sum", operation="draw") == 3
    assert value(samples, "vae_queue_duration_seconds_count", operation="draw") == 2
    assert value(samples, "vae_compute_duration_seconds_count", operation="draw") == 2
    assert 0 < value(samples, "vae_compute_duration_seconds_sum", operation="draw") < 10
    assert value(samples, "vae_latent_distance_count") == 3
    assert value(samples, "vae_latent_distance_sum") == 5 + 0 + 2
    assert value(samples, "vae_latent_distance_bucket", le="2") == 2
    assert value(samples, "vae_kl_divergence_nats_count") == 2
    kl = reconstruction["kl_divergence"]
    assert value(samples, "vae_kl_divergence_nats_sum") == pytest.approx(2 * kl, rel=1e-5)
    loss = value(samples, "vae_reconstruction_loss_nats_sum")
    assert loss == pytest.approx(reconstruction["reconstruction_loss"], rel=1e-5)


def test_state_and_info(fresh: Running) -> None:
    card = fresh.client.get("/model").json()
    samples = scrape(fresh.client)
    assert value(samples, "vae_places") == 7
    assert value(samples, "vae_requests_in_flight") == 0
    assert value(samples, "vae_queue_rows") == 0
    assert ("vae_worker_replacements_total", frozenset()) in samples
    assert value(samples, "vae_worker_replacements_total") == 0
    assert value(samples, "process_resident_memory_bytes") > 10**8
    assert value(samples, "process_cpu_seconds_total") > 0
    (info,) = (dict(labels) for name, labels in samples if name == "vae_model_info")
    assert (info["sha256"], info["latent_dim"], info["image_shape"]) == (card["sha256"], "3", "1×28×28")


def test_refusals_by_reason(caplog: pytest.LogCaptureFixture) -> None:
    with running(api_keys=("key",), body_limit=100, metrics="open") as service:
        decode(service.client)
        held = {"x-api-key": "key"}
        decode(service.client, **held)
        decode(service.client, z=[1] * 500, **held)
        service.swap_engine(Broken)
        decode(service.client, **held)
        service.exchange(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n")
        samples = scrape(service.client)
    assert refusals(samples) == dict.fromkeys(REASONS, 0) | {"key": 1, "too_large": 2, "failure": 1}


def reasons_of(error: type[ServiceError]) -> set[str]:
    return {error.reason}.union(*map(reasons_of, error.__subclasses__()))


def test_every_reason_is_told_before_anything_is_refused(fresh: Running) -> None:
    samples = scrape(fresh.client)
    assert refusals(samples) == dict.fromkeys(REASONS, 0)
    assert reasons_of(ServiceError) - {""} <= {*REASONS}
    row = next(line for line in PAGE.splitlines() if line.startswith("| `vae_refusals_total`"))
    assert {*row.split("|")[3].strip().split(", ")} == {*REASONS}


def test_a_key_may_be_asked_for_and_it_may_be_off() -> None:
    with running(api_keys=("key",), metrics="key") as service:
        assert "API key" in problem(service.client.get("/metrics"), 401)["detail"]
        assert service.client.get("/metrics", headers={"x-api-key": "key"}).status_code == 200
        assert service.client.get("/livez").status_code == 200
    with running(metrics="off") as service:
        problem(service.client.get("/metrics"), 404)


def test_workers_count_together_and_go_on_where_a_dead_one_was(tmp_path: Path) -> None:
    """Of vae-serve with a folder of diffusers', whose model the workers share by a fork."""
    write_folder(tmp_path / "small")
    samples: list[bytes] = []

    def sample() -> None:
        with httpx.Client(base_url=server.url, headers={"accept": "application/x-npy"}) as client:
            samples.extend(client.get("/sample?seed=1").content for _ in range(5))

    with live_server("--workers", "2", "--checkpoint", str(tmp_path / "small")) as server:
        wait_until(lambda: len(workers(server)) == 2)
        for asleep in workers(server):  # each answers some
            os.kill(asleep, signal.SIGSTOP)
            sample()
            server.get("/metrics")
            os.kill(asleep, signal.SIGCONT)

        def answered() -> float:
            with httpx.Client(base_url=server.url) as client:
                route = {"route": "/sample", "method": "GET", "status": "200", "media_type": "application/x-npy"}
                return value(scrape(client), "vae_requests_total", **route)

        assert answered() == 10
        os.kill(workers(server)[0], signal.SIGKILL)
        wait_until(lambda: len(workers(server)) == 3)
        with httpx.Client(base_url=server.url) as client:
            wait_until(lambda: value(scrape(client), "vae_worker_replacements_total") == 1)
        assert answered() == 10
        assert server.get("/model").json()["architecture"] == "AutoencoderKL"
    assert len(set(samples)) == 1


def test_callers_at_once_share_a_rendering_that_is_begun_after_they_came(
    fresh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def slow(registry: CollectorRegistry) -> bytes:
        threads.append(threading.current_thread().name)
        time.sleep(0.2)
        return generate_latest(registry)

    monkeypatch.setattr("service.telemetry.exposition.generate_latest", slow)

    async def ask(counted: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", fresh.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        (line,) = re.findall(rb'vae_requests_total\{.*route="/decode".*\} (\S+)', answer)
        assert float(line) >= counted

    async def come() -> None:
        async with asyncio.TaskGroup() as clients:
            for counted in range(1, 5):
                await asyncio.to_thread(decode, fresh.client)
                for _ in range(50):
                    clients.create_task(ask(counted))

    asyncio.run(come())
    assert 2 <= len(threads) <= 10
    assert not [name for name in threads if "serve" in name]  # the event loop's


def test_a_caller_who_has_gone_takes_the_text_from_no_other() -> None:
    metrics = Metrics(SharedSnapshots(1), 0)

    async def one_leaves() -> bytes:
        leaving, staying = (asyncio.create_task(metrics.exposition()) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    assert b"vae_requests_total" in asyncio.run(one_leaves())


def test_rendering_leaves_time_to_other_threads() -> None:
    """A thread that computes holds the interpreter's lock for 5 ms at a time."""
    metrics = Metrics(SharedSnapshots(1), 0)
    for route in range(300):
        metrics.counters.histogram("vae_request_duration_seconds", f"/{route}").add(1)

    async def render() -> list[float]:
        rendering = asyncio.create_task(metrics.exposition())
        turns = []
        while not rendering.done():
            begun = time.perf_counter()
            await asyncio.sleep(0.0001)
            turns.append(time.perf_counter() - begun)
        return turns

    assert median(asyncio.run(render())) < 0.003


def exposition(metrics: Metrics) -> bytes:
    return asyncio.run(metrics.exposition())


def cpu_seconds(metrics: Metrics) -> float:
    lines = exposition(metrics).decode().splitlines()
    (line,) = (line for line in lines if line.startswith(CPU))
    return float(line.split()[1])


def test_processor_time_never_falls() -> None:
    snapshots = SharedSnapshots(1)
    first = cpu_seconds(Metrics(snapshots, 0))
    second = Metrics(snapshots, 0)  # in the same process, which has spent it twice now
    assert cpu_seconds(second) >= 2 * first > 0


def test_without_a_free_file_descriptor_the_last_values_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(SharedSnapshots(1), 0)
    names = (b"\nprocess_resident_memory_bytes ", b"\nprocess_open_fds ")
    assert all(name in exposition(metrics) for name in names)
    monkeypatch.setattr("service.telemetry.prometheus.Path", Mock(side_effect=OSError(24, "Too many open files")))
    assert all(name in exposition(metrics) for name in names)


def test_workers_that_start_one_after_the_other_replace_nobody() -> None:
    snapshots = SharedSnapshots(2)
    for worker in (0, 1):
        assert b"vae_worker_replacements_total 0.0" in exposition(Metrics(snapshots, worker))
    assert b"vae_worker_replacements_total 1.0" in exposition(Metrics(snapshots, 0))


def test_posting_goes_on_after_one_that_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.telemetry.prometheus.PUBLISH_INTERVAL_S", 0.001)
    metrics, values = Metrics(SharedSnapshots(1), 0), iter([1.0, "no number", 3.0])
    posted = asyncio.Event()

    def ask() -> float:
        value = next(values)
        if value == 3.0:
            posted.set()
        return 1 / value  # type: ignore[operator]

    async def post() -> None:
        metrics.gauges = {"vae_places": ("", lambda: {NO_MODEL: ask()})}
        metrics.keep_publishing()
        await asyncio.wait_for(posted.wait(), 5)

    asyncio.run(post())
    assert "TypeError" in caplog.text


def test_the_bounds_belong_to_their_buckets() -> None:
    histogram = Histogram((1, 2))
    histogram.add_all([0.5, 1, 1.5, 2, sqrt(5)])
    assert histogram.counts == [2, 2, 1]
    assert BOUNDS.keys() == HISTOGRAMS.keys()


def test_a_notice_is_never_seen_half_written() -> None:
    snapshots = SharedSnapshots(2)
    assert snapshots.read_all() == []
    snapshots.publish(1, b"one")
    before = snapshots.read(1)
    snapshots.publish(1, b"another")
    assert (before, snapshots.read(1), snapshots.read_all()) == (b"one", b"another", [b"another"])
    with pytest.raises(ValueError, match="does not fit"):
        snapshots.publish(0, b"x" * (MAX_BYTES + 1))


def test_a_notice_that_a_worker_was_killed_over_is_nobody_s() -> None:
    snapshots = SharedSnapshots(1)
    before = Metrics(snapshots, 0)
    before.counters.refusals["key"] += 1
    before.publish()
    snapshots.publish(0, b"cut off")
    snapshots._memory[snapshots._memory.find(b"cut off")] ^= 1
    assert Metrics(snapshots, 0).counters.refusals["key"] == 1
    snapshots.publish(0, b"whole")
    assert snapshots.read_all() == [b"whole"]


def test_counts_are_of_one_service_alone() -> None:
    first, second = Metrics(SharedSnapshots(1), 0), Metrics(SharedSnapshots(1), 0)
    first.counters.refusals["queue_full"] += 1
    assert b'vae_refusals_total{model="",reason="queue_full",version=""} 1.0' in exposition(first)
    assert b'vae_refusals_total{model="",reason="queue_full",version=""} 0.0' in exposition(second)


def test_every_metric_has_a_row_in_the_documentation(fresh: Running) -> None:
    families = text_string_to_metric_families(fresh.client.get("/metrics").text)
    own = {family.name for family in families if family.name.startswith("vae_")}
    assert len(own) > 10
    assert not {name for name in own if f"`{name}" not in PAGE}
