import asyncio
import copy
import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import vae
from service.inference import engine as engine_module
from service.inference.backend import OnnxBackend
from service.inference.engine import Engine, FloatArray, NonFiniteOutput, Reconstruction
from service.inference.noise import standard_normal
from service.inference.posterior import draw_posterior
from service.inference.torch_backend import TorchBackend, choose_backend
from service.settings import BUNDLED, Runtime
from service.telemetry.counters import Counters, Histogram
from service.telemetry.timing import Timing
from tests.service.pictures import Bytes
from vae.config import Architecture

pytestmark = pytest.mark.slow

ARRAYS = ("mean", "log_variance", "z", "pixels", "reconstruction_loss", "kl_divergence")


@pytest.fixture(scope="module")
def model() -> vae.VAE:
    return vae.load(BUNDLED).model


@pytest.fixture
def engine(model: vae.VAE) -> Iterator[Engine]:
    engine = Engine(choose_backend(model), micro_batch_limit=64)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def x(images: Bytes) -> FloatArray:
    return images[:, None].astype(np.float32) / np.float32(255)


def rows_are_alone(engine: Engine, x: FloatArray) -> None:
    """The same bits for a row in batches of every size, at every place."""
    noise = standard_normal(0, len(x), (3,))

    async def reconstruct(rows: slice) -> Reconstruction:
        return await engine.reconstruct(x[rows], noise[rows])

    whole = asyncio.run(reconstruct(slice(None)))
    for size in (*range(1, 36), 47, 63, 64, 65, 70):
        rows = slice(size // 2, size // 2 + size)
        part = asyncio.run(reconstruct(rows))
        for name in ARRAYS:
            assert np.array_equal(getattr(part, name), getattr(whole, name)[rows]), (name, size)


@pytest.mark.parametrize("threads", {1, min(2, os.cpu_count() or 1)})  # more than there are vary by themselves
@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_row_is_the_same_in_any_batch(
    model: vae.VAE, x: FloatArray, threads: int, threaded: bool, architecture: Architecture, runtime: Runtime
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        untrained = vae.VAE(vae.VAEConfig(architecture, hidden_dim=16)).eval().requires_grad_(False)
        backend = choose_backend(untrained if architecture == "conv" else model, runtime)
        engine = Engine(backend, micro_batch_limit=64, threaded=threaded)
        rows_are_alone(engine, x)
        engine.close()
    finally:
        torch.set_num_threads(before)


def test_what_comes_together_is_computed_together(
    engine: Engine, x: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[list[int]] = []
    compute = engine._compute  # the one place where the model is called

    def watched(
        operation: engine_module.Operation, items: list[engine_module.Arrays]
    ) -> list[engine_module.Arrays | Exception]:
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


def test_a_large_batch_goes_in_pieces(engine: Engine, x: FloatArray) -> None:
    mean, _ = asyncio.run(engine.encode(x[:150]))
    pixels = asyncio.run(engine.decode(mean))
    assert (mean.shape, pixels.shape) == ((150, 3), (150, 1, 28, 28))
    assert mean.dtype == pixels.dtype == np.float32
    for start in (0, 64, 128, 149):
        assert np.array_equal(asyncio.run(engine.encode(x[start : start + 1]))[0][0], mean[start])
        assert np.array_equal(asyncio.run(engine.decode(mean[start : start + 1]))[0], pixels[start])


def test_of_large_batches_the_first_are_done_before_the_last_begin(engine: Engine) -> None:
    timings = [Timing() for _ in range(6)]

    async def all_of_them() -> list[int]:
        done: list[int] = []

        async def one(number: int) -> None:
            await engine.decode(np.zeros((640, 3), np.float32), timing=timings[number])
            done.append(max((timing.batches for timing in timings[number + 2 :]), default=0))

        await asyncio.gather(*map(one, range(6)))
        return done

    assert asyncio.run(all_of_them()) == [0] * 6
    assert timings[5].queue > timings[3].queue > timings[1].queue


def test_results_come_in_one_piece_whatever_their_types(engine: Engine) -> None:
    z = standard_normal(3, 150, (3,))
    whole = asyncio.run(engine.decode_raw(z, "float16"))
    assert whole.dtype == np.uint8
    assert whole.shape == (150, 2 * 784)
    for start in (0, 63, 64, 149):
        assert np.array_equal(asyncio.run(engine.decode_raw(z[start : start + 1], "float16"))[0], whole[start])


@pytest.mark.parametrize("threaded", [False, True])
def test_of_a_large_batch_nothing_is_computed_after_an_unsound_piece(
    model: vae.VAE, threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is as unsound as a small one: what the pieces run in does not show."""
    backend = choose_backend(model)
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

    async def come() -> FloatArray:
        with pytest.raises(NonFiniteOutput):
            await engine.decode(z, timing=timing)
        assert engine.waiting == 0
        await asyncio.sleep(0.1)
        assert (computed, timing.batches) == ([64], 1)
        return await engine.decode(z[64:200])

    assert np.isfinite(asyncio.run(come())).all()
    engine.close()


@pytest.mark.parametrize("end", ["answered", "unsound", "cancelled"])
def test_a_large_batch_leaves_nothing_to_the_collector(engine: Engine, end: str) -> None:
    z = np.zeros((64 * 1000 if end == "cancelled" else 640, 3), np.float32)
    z[0] = np.nan if end == "unsound" else 0
    latents = weakref.ref(z)

    async def come() -> bool:
        nonlocal z
        asking = asyncio.create_task(engine.decode(z))
        del z
        await asyncio.wait([asking], timeout=0.02 if end == "cancelled" else 10)
        asking.cancel()
        await asyncio.wait([asking])
        how = "cancelled" if asking.cancelled() else "unsound" if asking.exception() else "answered"
        del asking
        await asyncio.sleep(0.02)
        assert latents() is None
        return how == end

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(come())
    finally:
        gc.enable()


def test_of_a_large_batch_nothing_is_computed_for_a_caller_who_has_gone(engine: Engine) -> None:
    timing = Timing()

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await engine.decode(np.zeros((64 * 1000, 3), np.float32), timing=timing)
        so_far = timing.batches
        await asyncio.sleep(0.05)
        assert timing.batches <= so_far + 1 < 1000

    asyncio.run(leave())


def test_a_large_batch_lets_others_in_between(engine: Engine) -> None:
    """However many there are, each waits with a few of its pieces alone."""
    z = np.zeros((64 * 20, 3), np.float32)
    answered: list[int] = []

    async def decode(rows: int) -> None:
        await engine.decode(z[:rows])
        answered.append(rows)

    async def come() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(decode(64 * 20))
            await asyncio.sleep(0)
            group.create_task(decode(1))

    asyncio.run(come())
    assert answered == [1, *[64 * 20] * 5]


def test_a_request_in_several_batches_has_waited_once(engine: Engine) -> None:
    timing = Timing()
    before = time.perf_counter()
    asyncio.run(engine.decode(np.zeros((64 * 20, 3), np.float32), timing=timing))
    took = time.perf_counter() - before
    assert timing.batches == 20
    assert 0 < timing.queue + timing.compute < took


def test_reconstruction_without_noise_is_the_means_image(engine: Engine, x: FloatArray) -> None:
    result = asyncio.run(engine.reconstruct(x[:20]))
    mean, log_variance = asyncio.run(engine.encode(x[:20]))
    assert np.array_equal(result.z, mean)
    assert np.array_equal(result.mean, mean)
    assert np.array_equal(result.log_variance, log_variance)
    assert np.array_equal(result.pixels, asyncio.run(engine.decode(mean)))


def test_losses_of_draws_are_those_of_reconstructions(engine: Engine, x: FloatArray) -> None:
    """Of any number of images, in any batch, bit for bit."""
    noise = standard_normal(1, 9, (3,))
    mean, log_variance = asyncio.run(engine.encode(x))
    for count in (1, 5, 70, 200):
        losses = asyncio.run(engine.sample_losses(x[:count], mean[:count], log_variance[:count], noise))
        assert losses.shape == (9, count)
        for row, found in zip(noise, losses, strict=True):
            wanted = asyncio.run(engine.reconstruct(x[:count], np.tile(row, (count, 1))))
            assert np.array_equal(found, wanted.reconstruction_loss)


@pytest.mark.parametrize("count", [1, 64, 200])
def test_many_draws_leave_room_for_others(engine: Engine, x: FloatArray, count: int) -> None:
    noise = standard_normal(1, 4000 // count, (3,))

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


def test_what_is_drawn_are_the_rounded_pixels(engine: Engine, x: FloatArray) -> None:
    noise = standard_normal(1, 70, (3,))
    result = asyncio.run(engine.reconstruct(x[:70], noise))
    rounded = np.pad(np.floor(result.pixels.astype(np.float64) * 255 + 0.5)[:, 0], ((0, 0), (0, 0), (1, 0)))
    assert np.array_equal(asyncio.run(engine.decode_scanlines(result.z)), rounded)
    assert np.array_equal(asyncio.run(engine.reconstruct_scanlines(x[:70], noise)), rounded)
    means = asyncio.run(engine.encode(x[:70]))[0]
    assert np.array_equal(
        asyncio.run(engine.reconstruct_scanlines(x[:70])), asyncio.run(engine.decode_scanlines(means))
    )


def test_samples_are_drawn_as_the_engine_draws_them(engine: Engine, x: FloatArray) -> None:
    noise = standard_normal(1, 30, (3,))
    result = asyncio.run(engine.reconstruct(x[:30], noise))
    assert np.array_equal(draw_posterior(result.mean, result.log_variance, noise), result.z)
    one = draw_posterior(result.mean[7:8], result.log_variance[7:8], noise[7:8])
    assert np.array_equal(one[0], result.z[7])


@pytest.mark.parametrize(
    ("limit", "told", "threaded"), [(0.0, None, True), (60.0, None, False), (0.0, False, False), (60.0, True, True)]
)
def test_a_slow_model_leaves_the_event_loop_free(
    model: vae.VAE, monkeypatch: pytest.MonkeyPatch, limit: float, told: bool | None, threaded: bool
) -> None:
    monkeypatch.setattr(engine_module, "BLOCKING_LIMIT_S", limit)
    monkeypatch.setattr(engine_module, "BATCH_BLOCKING_LIMIT_S", limit)
    backend = choose_backend(model)
    engine = Engine(backend, micro_batch_limit=64, threaded=told)
    threads: list[threading.Thread] = []
    decode = backend.decode

    def watched(z: FloatArray) -> FloatArray:
        threads.append(threading.current_thread())
        return decode(z)

    monkeypatch.setattr(backend, "decode", watched)
    asyncio.run(engine.decode(np.zeros((1, 3), np.float32)))
    engine.close()
    assert (threads[0] is not threading.current_thread()) == threaded


def test_two_lanes_compute_side_by_side_what_one_computes(
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
def test_all_is_counted_on_the_event_loop(
    model: vae.VAE, x: FloatArray, threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the histograms; changed in another thread, they would be read half changed."""
    counters = Counters()
    engine = Engine(choose_backend(model), micro_batch_limit=64, threaded=threaded, counters=counters)
    threads: set[threading.Thread] = set()
    add = Histogram.add

    def watched(histogram: Histogram, value: float) -> None:
        threads.add(threading.current_thread())
        add(histogram, value)

    monkeypatch.setattr(Histogram, "add", watched)

    async def some() -> Reconstruction:
        await asyncio.gather(*(engine.encode(x[i : i + 1]) for i in range(10)))
        await engine.reconstruct_scanlines(x[:5])
        return await engine.reconstruct(x[:70])

    result = asyncio.run(some())
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
    "operation", ["encode", "reconstruct", "reconstruct_scanlines", "decode", "decode_scanlines", "decode_raw"]
)
def test_an_unsound_row_is_nobody_elses(
    model: vae.VAE, x: FloatArray, operation: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that only one of the batch's rows brings to overflow; of numbers as large no five digits are alike."""
    monkeypatch.setattr(OnnxBackend, "_compare", lambda *_: None)
    sees = operation in ("encode", "reconstruct", "reconstruct_scanlines")
    more = ["float16"] if operation == "decode_raw" else []
    broken = copy.deepcopy(model)
    weights = broken.state_dict()  # shared with the model
    weights["encoder.0.weight"][0] = 0
    weights["encoder.0.weight"][0, 0] = 1e38  # only a first pixel that is bright gets through
    if not sees:
        weights["decoder.0.weight"][0] = torch.tensor([1e38, 0, 0])
        weights["decoder.2.weight"][:, 0] = 1e38
    rows = x[:31].copy() if sees else np.zeros((31, 3), np.float32)
    rows[7].flat[0] = 1000
    engine = Engine(choose_backend(broken, runtime), micro_batch_limit=64)

    async def all_alone() -> list[object]:
        calls = (getattr(engine, operation)(rows[i : i + 1], *more) for i in range(31))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    results = asyncio.run(all_alone())
    assert [i for i, result in enumerate(results) if isinstance(result, Exception)] == [7]
    assert isinstance(results[7], NonFiniteOutput)
