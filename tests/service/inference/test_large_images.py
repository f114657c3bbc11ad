"""Large images beside small ones in one engine: tiles, turns, batches, and computations that end early."""

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from service.errors import TooLarge, Unavailable
from service.inference import progress
from service.inference.backend import FloatArray
from service.inference.compute_memory import ComputeMemory, PeakMemory
from service.inference.engine import Engine
from service.inference.torch_backend import TorchBackend
from service.telemetry.timing import Timing
from tests.service.running import wait_until
from tests.vae.diffusion.networks import create_network
from vae.diffusion.model import DiffusionModel
from vae.diffusion.tiling import Tiling

pytestmark = pytest.mark.slow

PEAK = PeakMemory(0, 100)
TILING = Tiling(2, whole=64**2, side=64)
SMALL, LARGE = (16, 16), (64, 64)
"""Latents of one tile, and of nine."""


@pytest.fixture
def backend() -> TorchBackend:
    memory = ComputeMemory(PEAK, PEAK, 1e7, TILING, batches=True)
    return TorchBackend(DiffusionModel(create_network("AutoencoderKL")).eval(), "cpu", memory)


@pytest.fixture
def engine(backend: TorchBackend) -> Iterator[Engine]:
    engine = Engine(backend, micro_batch_limit=64)
    yield engine
    engine.close()


@pytest.fixture
def tiles(backend: TorchBackend) -> list[tuple[int, ...]]:
    """The shapes of the latents that the decoder was called with."""
    shapes: list[tuple[int, ...]] = []
    network_of(backend).decoder.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    return shapes


def network_of(backend: TorchBackend) -> Any:
    """What diffusers computes."""
    return backend.model.network


def latents(count: int, size: tuple[int, int]) -> FloatArray:
    return np.random.default_rng(0).standard_normal((count, 4, *size)).astype(np.float32)


def pause_after(backend: TorchBackend, tile: int) -> tuple[threading.Event, threading.Event]:
    """Events that are set once so many tiles are computed, and to go on."""
    reached, released = threading.Event(), threading.Event()
    count = 0
    assert isinstance(backend.model, DiffusionModel)
    between = backend.model.between_tiles

    def wait() -> None:
        nonlocal count
        count += 1
        if count == tile:
            reached.set()
            released.wait(10)
        between()

    backend.model.between_tiles = wait
    return reached, released


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


def test_tiles_are_those_of_the_model(engine: Engine, backend: TorchBackend, tiles: list[Any]) -> None:
    z, timing = latents(1, LARGE), Timing()
    images = asyncio.run(engine.decode(z, timing=timing))
    assert len(tiles) == 9
    assert (timing.pieces, timing.total_pieces) == (9, 9)
    assert images.shape == (1, 3, 128, 128)
    timing = Timing()
    asyncio.run(engine.reconstruct(images, z, timing=timing))
    assert (timing.pieces, timing.total_pieces) == (17, 17)


def test_small_images_of_one_shape_are_one_batch(engine: Engine, tiles: list[Any]) -> None:
    z = [latents(1, SMALL), latents(1, (16, 15)), latents(2, SMALL) * 2, latents(1, (16, 15))]

    async def ask() -> list[FloatArray]:
        return await asyncio.gather(*map(engine.decode, z))

    results = asyncio.run(ask())
    assert sorted(tiles) == [(2, 4, 16, 15), (3, 4, 16, 16)]
    for given, together in zip(z, results, strict=True):
        for index, row in enumerate(given):
            np.testing.assert_array_equal(asyncio.run(engine.decode(row[None]))[0], together[index])


def test_a_batch_has_the_pixels_of_a_tile_at_most(engine: Engine, tiles: list[Any]) -> None:
    asyncio.run(engine.decode(latents(9, SMALL)))
    assert [shape[0] for shape in tiles] == [4, 4, 1]


def test_small_images_go_between_two_tiles(engine: Engine, backend: TorchBackend, tiles: list[Any]) -> None:
    reached, released = pause_after(backend, 2)

    async def ask() -> None:
        large = asyncio.create_task(engine.decode(latents(1, LARGE)))
        await until(reached)
        others = [asyncio.create_task(engine.decode(latents(1, size))) for size in (LARGE, SMALL)]
        await asyncio.sleep(0.05)
        released.set()
        await others[1]
        assert not large.done()
        await asyncio.gather(large, others[0])

    asyncio.run(ask())
    heights = [shape[2] for shape in tiles]
    assert heights.index(16) == 2
    assert len(tiles) == 9 + 1 + 9


def test_results_do_not_depend_on_what_goes_between(engine: Engine, backend: TorchBackend) -> None:
    alone = asyncio.run(engine.decode(latents(1, LARGE)))
    reached, released = pause_after(backend, 4)

    async def ask() -> FloatArray:
        large = asyncio.create_task(engine.decode(latents(1, LARGE)))
        await until(reached)
        small = asyncio.create_task(engine.decode(latents(2, SMALL)))
        await asyncio.sleep(0.05)
        released.set()
        await small
        return await large

    np.testing.assert_array_equal(asyncio.run(ask()), alone)


def test_a_computation_ends_at_the_next_tile_when_its_client_has_gone(
    engine: Engine, backend: TorchBackend, tiles: list[Any]
) -> None:
    reached, released = pause_after(backend, 3)

    async def ask() -> None:
        large = asyncio.create_task(engine.decode(latents(1, LARGE)))
        await until(reached)
        large.cancel()
        await asyncio.sleep(0.05)
        released.set()
        assert (await engine.decode(latents(1, SMALL))).shape == (1, 3, 32, 32)

    asyncio.run(ask())
    assert len(tiles) == 3 + 1


def test_encoding_ends_when_its_client_goes_while_others_have_their_turn(engine: Engine, backend: TorchBackend) -> None:
    reached, released = pause_after(backend, 3)
    count = 0

    def count_call(*_: object) -> None:
        nonlocal count
        count += 1

    network_of(backend).encoder.register_forward_hook(count_call)

    async def ask() -> None:
        large = asyncio.create_task(engine.encode(np.zeros((1, 3, 128, 128), np.float32)))
        await until(reached)
        loop = asyncio.get_running_loop()
        engine._turns.short.submit(lambda: loop.call_soon_threadsafe(large.cancel))
        engine._turns.short.submit(threading.Event().wait, 0.1)
        released.set()
        await engine.decode(latents(1, SMALL))

    asyncio.run(ask())
    assert count == 3


def test_pieces_of_the_decoder_are_not_computed_for_a_client_who_has_gone(
    engine: Engine, backend: TorchBackend, tiles: list[Any]
) -> None:
    """As of a video: the network calls its decoder once for each."""
    network = network_of(backend)
    decode = network.decode
    reached, released = threading.Event(), threading.Event()

    def in_pieces(z: torch.Tensor) -> Any:
        decode(z)
        reached.set()
        released.wait(10)
        return decode(z)

    network.decode = in_pieces

    async def ask() -> None:
        large = asyncio.create_task(engine.decode(latents(1, LARGE)))
        await until(reached)
        large.cancel()
        await asyncio.sleep(0.05)
        released.set()

    asyncio.run(ask())
    engine._turns.short.submit(lambda: None).result(10)
    assert len(tiles) == 1


def test_closing_ends_a_computation(backend: TorchBackend, tiles: list[Any]) -> None:
    engine = Engine(backend, micro_batch_limit=64)
    reached, released = pause_after(backend, 1)

    async def ask() -> None:
        large = asyncio.create_task(engine.decode(latents(1, LARGE)))
        await until(reached)
        engine.close()
        released.set()
        with pytest.raises(progress.Abandoned):
            await large

    asyncio.run(ask())
    assert len(tiles) == 1


def test_long_computations_are_logged(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vae-service")
    asyncio.run(engine.decode(latents(1, LARGE)))
    assert not caplog.messages
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr("service.inference.progress.time.perf_counter", lambda: next(clock))
    asyncio.run(engine.decode(latents(1, LARGE)))
    assert 1 <= len(caplog.messages) <= 4
    assert "decode: " in caplog.messages[0]
    assert " of 9 pieces after " in caplog.messages[0]


def test_too_large_images_are_refused(engine: Engine, tiles: list[Any]) -> None:
    for ask in (
        lambda: engine.decode(latents(1, (400, 400))),
        lambda: engine.encode(np.zeros((1, 3, 800, 800), np.float32)),
    ):
        with pytest.raises(TooLarge, match="800×800 pixels takes about 31 MB"):
            asyncio.run(ask())
    assert not tiles


class Failing:
    """Raises the error of a device without memory for so many calls."""

    def __init__(self, compute: Callable[[torch.Tensor], Any], times: int) -> None:
        self._compute = compute
        self._times = times

    def __call__(self, x: torch.Tensor) -> Any:
        if self._times:
            self._times -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._compute(x)


def test_out_of_memory_is_retried_in_smaller_tiles(engine: Engine, backend: TorchBackend, tiles: list[Any]) -> None:
    network = network_of(backend)
    network.decode = Failing(network.decode, 1)
    z = latents(1, (32, 32))
    assert asyncio.run(engine.decode(z)).shape == (1, 3, 64, 64)
    assert len(tiles) == 9
    assert asyncio.run(engine.decode(z)).shape == (1, 3, 64, 64)
    assert len(tiles) == 10  # whole again


def test_out_of_memory_twice_is_an_error_of_the_request(engine: Engine, backend: TorchBackend) -> None:
    network = network_of(backend)
    network.decode = Failing(network.decode, 2)
    with pytest.raises(Unavailable, match="The device's memory is in use"):
        asyncio.run(engine.decode(latents(1, SMALL)))
    assert asyncio.run(engine.decode(latents(1, SMALL))).shape == (1, 3, 32, 32)


def test_a_closed_engine_frees_its_model() -> None:
    async def run() -> weakref.ref[TorchBackend]:
        memory = ComputeMemory(PEAK, PEAK, 1e7, TILING, batches=True)
        backend = TorchBackend(DiffusionModel(create_network("AutoencoderKL")).eval(), "cpu", memory)
        engine = Engine(backend, micro_batch_limit=64)
        for size in (SMALL, LARGE):
            await engine.decode(latents(1, size))
        engine.close()
        return weakref.ref(backend)

    gc.disable()
    try:
        backend = asyncio.run(run())
        wait_until(lambda: backend() is None)  # once its thread has ended
    finally:
        gc.enable()
