import asyncio
import copy
import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import vae
from service.inference import engine as engine_module
from service.inference.backend import Arrays, FloatArray
from service.inference.engine import Engine
from service.inference.finite import NonFiniteOutput
from service.inference.noise import standard_normal
from service.inference.posterior import draw_posterior
from service.inference.reconstruction import Reconstruction
from service.inference.torch_backend import TorchBackend
from service.settings import BUNDLED
from service.telemetry.counters import Counters, Histogram
from service.telemetry.timing import Timing
from tests.service.inference.backends import backend_of
from tests.service.pictures import Bytes
from vae.config import Architecture
from vae.noise import image_noise

pytestmark = pytest.mark.slow

ARRAYS = ("mean", "log_variance", "z", "pixels", "reconstruction_loss", "kl_divergence")


@pytest.fixture(scope="module")
def model() -> vae.VAE:
    return vae.load(BUNDLED).model


@pytest.fixture
def engine(model: vae.VAE) -> Iterator[Engine]:
    engine = Engine(backend_of(model), micro_batch_limit=64)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def x(images: Bytes) -> FloatArray:
    return images[:, None].astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("threads", {1, min(2, os.cpu_count() or 1)})  # more than there are vary by themselves
@pytest.mark.parametrize("architecture", ["mlp", "conv", "resnet", "map"])
@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_row_is_the_same_in_any_batch(
    model: vae.VAE,
    x: FloatArray,
    threads: int,
    architecture: Architecture | Literal["map"],
    runtime: Literal["onnx", "torch"],
) -> None:
    """Bit for bit, in batches of any size, at any place. ATEN_CPU_CAPABILITY=avx2 has torch do without AVX-512."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if architecture == "mlp":
        network = model
    elif architecture == "map":
        network = vae.VAE(vae.VAEConfig("resnet", hidden_dim=16, hidden_layers=1, latent_map=(3, 7, 7)))
    else:
        network = vae.VAE(vae.VAEConfig(architecture, hidden_dim=16, hidden_layers=2))
    noise = standard_normal(0, 140, network.config.latent_shape)
    try:
        backend = backend_of(network.eval().requires_grad_(False), runtime)
        with closing(Engine(backend, micro_batch_limit=64, threaded=threads > 1)) as engine:
            whole = asyncio.run(engine.reconstruct(x[:140], noise))
            for size in (*range(1, 14), 17, 24, 31, 32, 47, 63, 64, 65, 70):
                rows = slice(size // 2, size // 2 + size)
                part = asyncio.run(engine.reconstruct(x[rows], noise[rows]))
                for name in ARRAYS:
                    assert np.array_equal(getattr(part, name), getattr(whole, name)[rows]), (name, size)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("limit", "period", "multiple"), [(1, 1, 1), (3, 1, 3), (10, 1, 4), (64, 1, 4), (64, 12, 12), (64, 5, 64)]
)
def test_batches_are_padded_to_a_multiple_of_rows(
    model: vae.VAE, monkeypatch: pytest.MonkeyPatch, limit: int, period: int, multiple: int
) -> None:
    """Here results are the same in batches whose sizes have the same remainder."""
    sizes: list[int] = []

    def encode(images: FloatArray) -> tuple[FloatArray, FloatArray]:
        sizes.append(len(images))
        mean = images[:, 0, 0, :3] + np.float32(len(images) % period)
        return mean, mean

    backend = TorchBackend(model)
    monkeypatch.setattr(backend, "encode", encode)
    monkeypatch.setattr(backend, "reconstruct", lambda z, images: (images, z))
    engine = Engine(backend, micro_batch_limit=limit, threaded=False)
    sizes.clear()
    for count in range(1, limit + 1):
        asyncio.run(engine.encode(np.zeros((count, 1, 28, 28), np.float32)))
    assert sizes == [-(-count // multiple) * multiple for count in range(1, limit + 1)]


def test_where_results_depend_on_the_place_batches_are_not_padded(
    model: vae.VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = TorchBackend(model)
    encode = backend.encode

    def by_place(images: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean, log_variance = encode(images)
        return mean + np.arange(len(mean), dtype=np.float32)[:, None], log_variance

    monkeypatch.setattr(backend, "encode", by_place)
    assert backend.find_row_multiple(64) == 1


def test_concurrent_requests_are_computed_together(
    engine: Engine, x: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[list[int]] = []
    compute = engine._compute  # the one place where the model is called

    def watched(operation: engine_module.Operation, items: list[Arrays]) -> list[Arrays | Exception]:
        sizes.append([len(item[0]) for item in items])
        return compute(operation, items)

    monkeypatch.setattr(engine, "_compute", watched)

    async def together() -> list[tuple[FloatArray, FloatArray]]:
        return await asyncio.gather(*(engine.encode(x[n : 2 * n]) for n in (1, 2, 60, 5)))

    answers = asyncio.run(together())
    assert sizes == [[1, 2, 60], [5]]
    monkeypatch.undo()
    for n, (mean, log_variance) in zip((1, 2, 60, 5), answers, strict=True):
        alone = asyncio.run(engine.encode(x[n : 2 * n]))
        assert np.array_equal(mean, alone[0])
        assert np.array_equal(log_variance, alone[1])


def test_a_large_request_is_computed_in_chunks(engine: Engine, x: FloatArray) -> None:
    mean, _ = asyncio.run(engine.encode(x[:150]))
    pixels = asyncio.run(engine.decode(mean))
    assert (mean.shape, pixels.shape) == ((150, 3), (150, 1, 28, 28))
    assert mean.dtype == pixels.dtype == np.float32
    for start in (0, 64, 128, 149):
        assert np.array_equal(asyncio.run(engine.encode(x[start : start + 1]))[0][0], mean[start])
        assert np.array_equal(asyncio.run(engine.decode(mean[start : start + 1]))[0], pixels[start])


def test_the_first_large_requests_end_before_the_last_begin(engine: Engine) -> None:
    timings = [Timing() for _ in range(6)]

    async def run_all() -> list[int]:
        done: list[int] = []

        async def one(number: int) -> None:
            await engine.decode(np.zeros((640, 3), np.float32), timing=timings[number])
            done.append(max((timing.batches for timing in timings[number + 2 :]), default=0))

        await asyncio.gather(*map(one, range(6)))
        return done

    assert asyncio.run(run_all()) == [0] * 6
    assert timings[5].queue > timings[3].queue > timings[1].queue


def test_chunks_of_any_dtype_are_put_together(engine: Engine) -> None:
    z = standard_normal(3, 150, (3,))
    whole = asyncio.run(engine.decode_raw(z, "float16"))
    assert whole.dtype == np.uint8
    assert whole.shape == (150, 2 * 784)
    for start in (0, 63, 64, 149):
        assert np.array_equal(asyncio.run(engine.decode_raw(z[start : start + 1], "float16"))[0], whole[start])


@pytest.mark.parametrize("threaded", [False, True])
def test_after_a_non_finite_chunk_no_other_is_computed(
    model: vae.VAE, threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request fails as one of a single chunk does."""
    backend = backend_of(model)
    engine = Engine(backend, micro_batch_limit=64, threaded=threaded)
    decode = backend.decode
    computed: list[int] = []

    def watched(z: FloatArray) -> FloatArray:
        computed.append(len(z))
        return decode(z)

    monkeypatch.setattr(backend, "decode", watched)
    z = np.zeros((10_000, 3), np.float32)
    z[0] = np.nan
    timing = Timing()

    async def run() -> FloatArray:
        with pytest.raises(NonFiniteOutput):
            await engine.decode(z, timing=timing)
        assert engine.waiting == 0
        await asyncio.sleep(0.1)
        assert (computed, timing.batches) == ([64], 1)
        return await engine.decode(z[64:200])

    assert np.isfinite(asyncio.run(run())).all()
    engine.close()


@pytest.mark.parametrize("end", ["finished", "failed", "cancelled"])
def test_a_large_request_leaves_no_reference_cycle(engine: Engine, end: str) -> None:
    z = np.zeros((64 * 1000 if end == "cancelled" else 640, 3), np.float32)
    z[0] = np.nan if end == "failed" else 0
    latents = weakref.ref(z)

    async def run() -> bool:
        nonlocal z
        task = asyncio.create_task(engine.decode(z))
        del z
        await asyncio.wait([task], timeout=0.02 if end == "cancelled" else 10)
        task.cancel()
        await asyncio.wait([task])
        outcome = "cancelled" if task.cancelled() else "failed" if task.exception() else "finished"
        del task
        await asyncio.sleep(0.02)
        assert latents() is None
        return outcome == end

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(run())
    finally:
        gc.enable()


def test_a_cancelled_large_request_is_computed_no_further(engine: Engine) -> None:
    timing = Timing()

    async def cancel() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await engine.decode(np.zeros((64 * 1000, 3), np.float32), timing=timing)
        so_far = timing.batches
        await asyncio.sleep(0.05)
        assert timing.batches <= so_far + 1 < 1000

    asyncio.run(cancel())


def test_a_large_request_lets_others_in_between(engine: Engine) -> None:
    """Each queues a few of its chunks alone, however many it has."""
    z = np.zeros((64 * 20, 3), np.float32)
    finished: list[int] = []

    async def decode(rows: int) -> None:
        await engine.decode(z[:rows])
        finished.append(rows)

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(decode(64 * 20))
            await asyncio.sleep(0)
            group.create_task(decode(1))

    asyncio.run(run())
    assert finished == [1, *[64 * 20] * 5]


def test_a_request_of_several_batches_has_queued_once(engine: Engine) -> None:
    timing = Timing()
    before = time.perf_counter()
    asyncio.run(engine.decode(np.zeros((64 * 20, 3), np.float32), timing=timing))
    took = time.perf_counter() - before
    assert timing.batches == 20
    assert 0 < timing.queue + timing.compute < took


def test_reconstruction_without_noise_decodes_the_mean(engine: Engine, x: FloatArray) -> None:
    result = asyncio.run(engine.reconstruct(x[:20]))
    mean, log_variance = asyncio.run(engine.encode(x[:20]))
    assert np.array_equal(result.z, mean)
    assert np.array_equal(result.mean, mean)
    assert np.array_equal(result.log_variance, log_variance)
    assert np.array_equal(result.pixels, asyncio.run(engine.decode(mean)))


def test_losses_of_samples_are_those_of_reconstructions(engine: Engine, x: FloatArray) -> None:
    """Of any number of images, in any batch, bit for bit."""
    noise = image_noise(x, 9, (3,), 1)
    mean, log_variance = asyncio.run(engine.encode(x))
    for count in (1, 5, 70, 200):
        losses = asyncio.run(engine.sample_losses(x[:count], mean[:count], log_variance[:count], noise[:count]))
        assert losses.shape == (9, count)
        for sample, found in enumerate(losses):
            expected = asyncio.run(engine.reconstruct(x[:count], noise[:count, sample]))
            assert np.array_equal(found, expected.reconstruction_loss)


@pytest.mark.parametrize("count", [1, 64, 200])
def test_many_samples_leave_room_for_others(engine: Engine, x: FloatArray, count: int) -> None:
    noise = image_noise(x[:count], 4000 // count, (3,), 1)

    async def most_waiting() -> int:
        mean, log_variance = await engine.encode(x[:count])
        task = asyncio.create_task(engine.sample_losses(x[:count], mean, log_variance, noise))
        most = 0
        while not task.done():
            most = max(most, engine.waiting)
            await asyncio.sleep(0)
        await task
        return most

    assert 0 < asyncio.run(most_waiting()) <= 2 * 64


def test_scanlines_are_the_rounded_pixels(engine: Engine, x: FloatArray) -> None:
    noise = standard_normal(1, 70, (3,))
    result = asyncio.run(engine.reconstruct(x[:70], noise))
    rounded = np.pad(np.floor(result.pixels.astype(np.float64) * 255 + 0.5)[:, 0], ((0, 0), (0, 0), (1, 0)))
    assert np.array_equal(asyncio.run(engine.decode_scanlines(result.z)), rounded)
    assert np.array_equal(asyncio.run(engine.reconstruct_scanlines(x[:70], noise)), rounded)
    means = asyncio.run(engine.encode(x[:70]))[0]
    assert np.array_equal(
        asyncio.run(engine.reconstruct_scanlines(x[:70])), asyncio.run(engine.decode_scanlines(means))
    )


def test_draw_posterior_computes_what_the_engine_does(engine: Engine, x: FloatArray) -> None:
    noise = standard_normal(1, 30, (3,))
    result = asyncio.run(engine.reconstruct(x[:30], noise))
    assert np.array_equal(draw_posterior(result.mean, result.log_variance, noise), result.z)
    one = draw_posterior(result.mean[7:8], result.log_variance[7:8], noise[7:8])
    assert np.array_equal(one[0], result.z[7])


@pytest.mark.parametrize(
    ("limit", "asked", "threaded"), [(0.0, None, True), (60.0, None, False), (0.0, False, False), (60.0, True, True)]
)
def test_a_slow_model_leaves_the_event_loop_free(
    model: vae.VAE, monkeypatch: pytest.MonkeyPatch, limit: float, asked: bool | None, threaded: bool
) -> None:
    monkeypatch.setattr(engine_module, "BLOCKING_LIMIT_S", limit)
    monkeypatch.setattr(engine_module, "BATCH_BLOCKING_LIMIT_S", limit)
    backend = backend_of(model)
    engine = Engine(backend, micro_batch_limit=64, threaded=asked)
    threads: list[threading.Thread] = []
    decode = backend.decode

    def watched(z: FloatArray) -> FloatArray:
        threads.append(threading.current_thread())
        return decode(z)

    monkeypatch.setattr(backend, "decode", watched)
    asyncio.run(engine.decode(np.zeros((1, 3), np.float32)))
    engine.close()
    assert (threads[0] is not threading.current_thread()) == threaded


def test_concurrent_batches_compute_what_one_does(
    model: vae.VAE, x: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, counters = TorchBackend(model), Counters()
    backend.max_concurrent_batches = 2
    engine = Engine(backend, micro_batch_limit=64, threaded=True, counters=counters)
    both = threading.Barrier(2, timeout=10)
    encode = backend.encode

    def met(images: FloatArray) -> tuple[FloatArray, FloatArray]:
        both.wait()
        return encode(images)

    mean, _ = encode(x[:128])
    monkeypatch.setattr(backend, "encode", met)
    for _ in range(20):
        assert np.array_equal(asyncio.run(engine.encode(x[:128]))[0], mean)
    engine.close()
    assert sum(counters.histogram("vae_kl_divergence_nats").counts) == 20 * 128


@pytest.mark.parametrize("threaded", [False, True])
def test_everything_is_counted_on_the_event_loop(
    model: vae.VAE, x: FloatArray, threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which reads the histograms: a change in another thread could be seen half made."""
    counters = Counters()
    engine = Engine(backend_of(model), micro_batch_limit=64, threaded=threaded, counters=counters)
    threads: set[threading.Thread] = set()
    add = Histogram.add

    def watched(histogram: Histogram, value: float) -> None:
        threads.add(threading.current_thread())
        add(histogram, value)

    monkeypatch.setattr(Histogram, "add", watched)

    async def run_some() -> Reconstruction:
        await asyncio.gather(*(engine.encode(x[i : i + 1]) for i in range(10)))
        await engine.reconstruct_scanlines(x[:5])
        return await engine.reconstruct(x[:70])

    result = asyncio.run(run_some())
    engine.close()
    assert threads == {threading.current_thread()}
    kl, loss = (counters.histogram(f"vae_{name}_nats") for name in ("kl_divergence", "reconstruction_loss"))
    assert (sum(kl.counts), sum(loss.counts)) == (10 + 5 + 70, 70)
    assert loss.total == pytest.approx(result.reconstruction_loss.sum(), rel=1e-5)
    values = result.kl_divergence
    assert kl.total == pytest.approx(values.sum() + values[:10].sum() + values[:5].sum(), rel=1e-5)


def test_standard_normal_begins_the_same_for_any_count() -> None:
    whole: NDArray[np.float32] = standard_normal(5, 1000, (3,))
    for count in (1, 2, 63, 999):
        assert np.array_equal(standard_normal(5, count, (3,)), whole[:count])
    assert whole.mean() == pytest.approx(0, abs=0.05)
    assert whole.std() == pytest.approx(1, abs=0.05)
    assert not np.array_equal(standard_normal(6, 1000, (3,)), whole)


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
@pytest.mark.parametrize(
    "method", ["encode", "reconstruct", "reconstruct_scanlines", "decode", "decode_scanlines", "decode_raw"]
)
def test_a_non_finite_row_fails_its_request_alone(
    model: vae.VAE, x: FloatArray, method: str, runtime: Literal["onnx", "torch"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights make one row of the batch overflow; of numbers so large torch and ONNX Runtime differ."""
    takes_images = method in ("encode", "reconstruct", "reconstruct_scanlines")
    more = ["float16"] if method == "decode_raw" else []
    broken = copy.deepcopy(model)
    weights = broken.state_dict()  # shared with the model
    weights["encoder.0.weight"][0] = 0
    weights["encoder.0.weight"][0, 0] = 1e38  # only a first pixel that is bright gets through
    if not takes_images:
        weights["decoder.0.weight"][0] = torch.tensor([1e38, 0, 0])
        weights["decoder.2.weight"][:, 0] = 1e38
    rows = x[:31].copy() if takes_images else np.zeros((31, 3), np.float32)
    rows[7].flat[0] = 1000
    engine = Engine(backend_of(broken, runtime), micro_batch_limit=64)

    async def request_each() -> list[object]:
        calls = (getattr(engine, method)(rows[i : i + 1], *more) for i in range(31))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    results = asyncio.run(request_each())
    assert [i for i, result in enumerate(results) if isinstance(result, Exception)] == [7]
    assert isinstance(results[7], NonFiniteOutput)
