"""The model behind micro-batchers: arrays in, arrays out, whatever else is being computed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import Unavailable
from service.inference.backend import DTYPES, Backend
from service.inference.batching import MicroBatcher
from service.inference.posterior import draw_posterior, kl_divergence
from service.telemetry.counters import Counters
from service.telemetry.timing import Timing

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
Arrays = tuple[npt.NDArray[Any], ...]
"""Arrays of one length N: what goes in and comes out of an operation, row by row."""
Operation = Callable[..., Arrays]

BLOCKING_LIMIT_S = 0.001
"""A model that takes longer for one image runs in a thread beside the event loop."""
BATCH_BLOCKING_LIMIT_S = 0.005
"""… and one that takes longer for its largest micro-batch."""

PIECES_IN_FLIGHT = 2
"""Whole pieces of one large request that wait at a time: others' come in between, and the engine has no rest."""

LARGE_AT_A_TIME = 2
"""Requests of several pieces. All at once they would be done late, all at once, their pieces long out of the caches."""

COMPARED_ROWS = 64
"""The most rows of the batches that are compared, at the start, to see how many are few."""
LEAST_ROWS = (1, 2, 4, 8, 16)
"""To how many rows a smaller batch may be padded; BLAS computes a few rows by other kernels, whose last bits differ."""

LOSSES = {
    "encode": {-1: "vae_kl_divergence_nats"},
    "redraw": {-1: "vae_kl_divergence_nats"},
    "reconstruct": {-1: "vae_kl_divergence_nats", -2: "vae_reconstruction_loss_nats"},
}
"""The results of each operation that are losses, and their histograms."""


class NonFiniteOutput(Exception):
    """The model gave something that is not a finite number."""


@dataclass(frozen=True)
class Reconstruction:
    """What `/reconstruct` tells of N images; losses in nats, (N,) each."""

    mean: FloatArray
    log_variance: FloatArray
    z: FloatArray
    pixels: FloatArray
    reconstruction_loss: FloatArray
    kl_divergence: FloatArray


class Engine:
    """Runs one model; all arrays are float32, images (N, C, H, W) in [0, 1], latents (N, …) of the model's shape."""

    def __init__(
        self,
        backend: Backend,
        *,
        micro_batch_limit: int,
        deadline: float = 30,
        threaded: bool | None = None,
        counters: Counters | None = None,
        on_batch: Callable[[str, Sequence[Timing], float, int], None] | None = None,
    ) -> None:
        """A request of several pieces waits for its turn a third of the `deadline`, in seconds, and is then refused.

        `threaded` says whether a batch is computed in a thread beside the event loop; by default, if it is slow.

        `counters` counts batches, and the losses of the images that come. `on_batch` is told of each batch its
        operation, the timings of its requests, how long it took, in seconds, and its rows.
        """
        self.config = backend.config
        self._backend = backend
        per_sample = self.config.per_sample
        self._limit = 1 if per_sample else micro_batch_limit
        self._least_rows = 1 if per_sample else self._find_least_rows()
        if threaded is None:
            threaded = (
                per_sample or self._seconds(1) > BLOCKING_LIMIT_S or self._seconds(self._limit) > BATCH_BLOCKING_LIMIT_S
            )
        self._threads = (
            ThreadPoolExecutor(backend.max_concurrent_batches, "engine", backend.begin_thread) if threaded else None
        )
        self._large = asyncio.Semaphore(LARGE_AT_A_TIME)
        self._longest_wait = deadline / 3
        self._counters = counters or Counters()
        self._on_batch = on_batch
        self._encoder = self._batcher("encode", self._encode)
        self._decoder = self._batcher("decode", self._decode)
        self._scanline_decoder = self._batcher("draw", self._decode_scanlines)
        self._reconstructor = self._batcher("reconstruct", self._reconstruct)
        self._scanline_reconstructor = self._batcher("redraw", self._reconstruct_scanlines)
        self._loss_sampler = self._batcher("losses", self._losses)
        self._raw_decoders = {
            dtype: self._batcher("signed", partial(self._backend.decode_raw, dtype=dtype)) for dtype in DTYPES
        }

    @property
    def waiting(self) -> int:
        """Rows that wait to be computed."""
        batchers = (
            self._encoder,
            self._decoder,
            self._scanline_decoder,
            self._reconstructor,
            self._scanline_reconstructor,
            self._loss_sampler,
        )
        return sum(batcher.waiting for batcher in (*batchers, *self._raw_decoders.values()))

    async def encode(self, images: FloatArray, *, timing: Timing | None = None) -> tuple[FloatArray, FloatArray]:
        """Mean and log-variance of q(z|x), (N, …) each."""
        mean, log_variance, _ = await self._run(self._encoder, (images,), timing)
        return mean, log_variance

    async def decode(self, z: FloatArray, *, timing: Timing | None = None) -> FloatArray:
        """Images, (N, C, H, W) in [0, 1]."""
        (pixels,) = await self._run(self._decoder, (z,), timing)
        return pixels

    async def decode_scanlines(self, z: FloatArray, *, timing: Timing | None = None) -> ByteArray:
        """As `decode`, as a PNG's scanlines: uint8 (N, H, 1 + W·C), each row of pixels after a zero."""
        scanlines, _ = await self._run(self._scanline_decoder, (z,), timing)
        return scanlines

    async def decode_raw(self, z: FloatArray, dtype: str, *, timing: Timing | None = None) -> ByteArray:
        """Images as diffusers has them, (N, C, H, W) about in [-1, 1], as one of DTYPES: their bytes, uint8 (N, …)."""
        pixels, _ = await self._run(self._raw_decoders[dtype], (z,), timing)
        return pixels

    async def reconstruct(
        self, images: FloatArray, noise: FloatArray | None = None, *, timing: Timing | None = None
    ) -> Reconstruction:
        """Images decoded from the posterior's mean, or from its sample with `noise` (N, …) ~ N(0, I)."""
        noise = self._or_zeros(noise, len(images))
        return Reconstruction(*await self._run(self._reconstructor, (images, noise), timing))

    async def reconstruct_scanlines(
        self, images: FloatArray, noise: FloatArray | None = None, *, timing: Timing | None = None
    ) -> ByteArray:
        """The images that `reconstruct` gives, as `decode_scanlines` does."""
        noise = self._or_zeros(noise, len(images))
        scanlines, _, _ = await self._run(self._scanline_reconstructor, (images, noise), timing)
        return scanlines

    async def sample_losses(
        self,
        images: FloatArray,
        mean: FloatArray,
        log_variance: FloatArray,
        noise: FloatArray,
        *,
        timing: Timing | None = None,
    ) -> FloatArray:
        """−log p(x|z) of N images under K draws z of each one's posterior, (K, N), nats.

        `noise` (K, …) ~ N(0, I) is the same for all images, so that no image's losses depend on the others.
        """
        count = len(images)

        def cut(start: int) -> Arrays:
            decode_scanlines, first = divmod(start, count)
            rows = slice(first, first + self._limit)
            return (
                images[rows],
                mean[rows],
                log_variance[rows],
                np.broadcast_to(noise[decode_scanlines], mean[rows].shape),
            )

        starts = [
            decode_scanlines * count + first
            for decode_scanlines in range(len(noise))
            for first in range(0, count, self._limit)
        ]
        pieces = PIECES_IN_FLIGHT * max(1, self._limit // count)
        (losses,) = await self._run_in_pieces(self._loss_sampler, len(noise) * count, starts, cut, timing, pieces)
        return losses.reshape(len(noise), count)

    def close(self) -> None:
        """Let the threads go, if there are any, without waiting for what they compute."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _or_zeros(self, noise: FloatArray | None, count: int) -> FloatArray:
        return np.zeros((count, *self.config.latent_shape), np.float32) if noise is None else noise

    def _batcher(self, name: str, operation: Operation) -> MicroBatcher[Arrays, Arrays]:
        queued, computed, sizes = (
            self._counters.histogram(f"vae_{what}", name)
            for what in ("queue_duration_seconds", "compute_duration_seconds", "batch_rows")
        )

        def compute(items: Sequence[Arrays]) -> list[Arrays | Exception]:
            return self._compute(operation, items)

        def observe(
            results: Sequence[Arrays | Exception], timings: Sequence[Timing], seconds: float, rows: int
        ) -> None:
            queued.add_all([timing.queue for timing in timings if timing.batches == 1])
            computed.add(seconds)
            sizes.add(rows)
            for column, loss in LOSSES.get(name, {}).items():
                values = (result[column].tolist() for result in results if not isinstance(result, Exception))
                self._counters.histogram(loss).add_all(list(chain.from_iterable(values)))
            if self._on_batch:
                self._on_batch(name, timings, seconds, rows)

        return MicroBatcher(
            compute,
            limit=self._limit,
            size=lambda item: len(item[0]),
            executor=self._threads,
            max_concurrent_batches=self._backend.max_concurrent_batches,
            observe=observe,
        )

    def _run(self, batcher: MicroBatcher[Arrays, Arrays], rows: Arrays, timing: Timing | None) -> Awaitable[Arrays]:
        if len(rows[0]) <= self._limit:
            return batcher.submit(rows, timing)

        def cut(start: int) -> Arrays:
            return tuple(array[start : start + self._limit] for array in rows)

        starts = range(0, len(rows[0]), self._limit)
        return self._run_in_pieces(batcher, len(rows[0]), starts, cut, timing, PIECES_IN_FLIGHT)

    async def _run_in_pieces(
        self,
        batcher: MicroBatcher[Arrays, Arrays],
        count: int,
        starts: Sequence[int],
        cut: Callable[[int], Arrays],
        timing: Timing | None,
        max_concurrent_batches: int,
    ) -> Arrays:
        """The results of `count` rows, of which `cut` gives the piece that begins at each of `starts`.

        As many pieces as there are `max_concurrent_batches` wait at a time.
        """
        timing = timing or Timing()  # by which the batcher knows the pieces of a request
        results: list[npt.NDArray[Any]] = []

        async def go_through(starts: Sequence[int]) -> None:
            for start in starts:
                piece = await batcher.submit(cut(start), timing)
                if not results:
                    results.extend(np.empty((count, *array.shape[1:]), array.dtype) for array in piece)
                for result, array in zip(results, piece, strict=True):
                    result[start : start + len(array)] = array

        since = time.perf_counter()
        async with self._turn_of_large() if count > self._limit else nullcontext():
            timing.queue += time.perf_counter() - since
            tasks = [
                asyncio.create_task(go_through(starts[lane::max_concurrent_batches]))
                for lane in range(max_concurrent_batches)
            ]
            try:
                await asyncio.gather(*tasks)
            finally:  # a TaskGroup of Python 3.11, cancelled, leaves a reference cycle around all of the request
                while tasks:
                    tasks.pop().cancel()
        return tuple(results)

    @asynccontextmanager
    async def _turn_of_large(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._longest_wait):
                await self._large.acquire()
        except TimeoutError:
            message = "Too many large requests wait to be computed; try again in a moment."
            raise Unavailable(message, "queue_full") from None
        try:
            yield
        finally:
            self._large.release()

    @np.errstate(all="ignore")  # what is not finite is told by UnsoundOutput
    def _compute(self, operation: Operation, items: Sequence[Arrays]) -> list[Arrays | Exception]:
        """One forward pass over all items, in whole rows, and its results cut up again.

        Where those of an item are not all finite it has NonFiniteOutput in their place.
        """
        rows = sum(len(item[0]) for item in items)
        arrays = operation(*(self._join(column, rows) for column in zip(*items, strict=True)))
        results: list[Arrays | Exception] = []
        sound = _all_finite(arrays)
        start = 0
        for item in items:
            stop = start + len(item[0])
            part = tuple([array[start:stop] for array in arrays])
            results.append(part if sound or _all_finite(part) else NonFiniteOutput())
            start = stop
        return results

    def _join(self, column: Sequence[FloatArray], rows: int) -> FloatArray:
        """Arrays (n, …) of `rows` rows altogether as one, with zeros below where a batch must not have so few."""
        spare = self._least_rows - rows
        if spare > 0:
            column = [*column, np.zeros((spare, *column[0].shape[1:]), np.float32)]
        return np.concatenate(column)

    def _encode(self, images: FloatArray) -> Arrays:
        mean, log_variance = self._backend.encode(images)
        return mean, log_variance, kl_divergence(mean, log_variance)

    def _decode(self, z: FloatArray) -> Arrays:
        return (np.ascontiguousarray(self._backend.decode(z)),)

    def _decode_scanlines(self, z: FloatArray) -> Arrays:
        pixels = self._backend.decode(z)
        pixels *= 255
        pixels += 0.5
        count, channels, height, width = pixels.shape
        scanlines = np.zeros((count, height, 1 + width * channels), np.uint8)
        scanlines[:, :, 1:] = pixels.transpose(0, 2, 3, 1).reshape(count, height, -1)
        return scanlines, pixels.sum((1, 2, 3))  # the sum is finite where all pixels are

    def _reconstruct_scanlines(self, images: FloatArray, noise: FloatArray) -> Arrays:
        mean, log_variance = self._backend.encode(images)
        scanlines, sums = self._decode_scanlines(draw_posterior(mean, log_variance, noise))
        return scanlines, sums, kl_divergence(mean, log_variance)

    def _reconstruct(self, images: FloatArray, noise: FloatArray) -> Arrays:
        mean, log_variance = self._backend.encode(images)
        z = draw_posterior(mean, log_variance, noise)
        pixels, loss = self._backend.reconstruct(z, images)
        return mean, log_variance, z, np.ascontiguousarray(pixels), loss, kl_divergence(mean, log_variance)

    def _losses(self, images: FloatArray, mean: FloatArray, log_variance: FloatArray, noise: FloatArray) -> Arrays:
        _, loss = self._backend.reconstruct(draw_posterior(mean, log_variance, noise), images)
        return (loss,)

    def _seconds(self, rows: int) -> float:
        """How long `rows` rows take to be drawn; best of a few: the first passes allocate and choose kernels."""
        z = np.zeros((rows, *self.config.latent_shape), np.float32)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            self._compute(self._decode_scanlines, [(z,)])
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    @np.errstate(all="ignore")
    def _find_least_rows(self) -> int:
        """The fewest rows from which on, here, batches of all sizes give a row the same bits."""
        most = min(self._limit, COMPARED_ROWS)
        generator = np.random.default_rng(0)
        images = generator.random((most, *self.config.image_shape), np.float32)
        noise = generator.standard_normal((most, *self.config.latent_shape), np.float32)
        whole = self._reconstruct(images, noise)

        def is_same(rows: int) -> bool:
            return all(map(np.array_equal, self._reconstruct(images[:rows], noise[:rows]), (a[:rows] for a in whole)))

        for least in LEAST_ROWS:
            sizes = {*range(least, least + 4), *range(2 * least, most, most // 4 + 1)}
            if all(is_same(rows) for rows in sorted(sizes) if rows <= most):
                return least
        return self._limit


def _all_finite(arrays: Sequence[npt.NDArray[Any]]) -> bool:
    return all(array.dtype == np.uint8 or _is_finite(array) for array in arrays)


def _is_finite(array: FloatArray) -> bool:
    """A sum that is finite is one of finite numbers; one that is not may be."""
    if array.ndim == 1:
        return all(map(isfinite, array.tolist()))
    return isfinite(array.sum()) or bool(np.isfinite(array).all())
