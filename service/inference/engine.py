"""The operations of one model, each behind a micro-batcher."""

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
from service.inference.least_rows import find_least_rows
from service.inference.posterior import draw_posterior, kl_divergence
from service.telemetry.counters import Counters
from service.telemetry.timing import Timing

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
Arrays = tuple[npt.NDArray[Any], ...]
"""Inputs or outputs of an operation: arrays of equal length N."""
Operation = Callable[..., Arrays]

BLOCKING_LIMIT_S = 0.001
"""Longest time for one image, in seconds, of a model that is computed on the event loop."""
BATCH_BLOCKING_LIMIT_S = 0.005
"""Longest time for the largest micro-batch, in seconds, of a model that is computed on the event loop."""

PIECES_IN_FLIGHT = 2
"""Pieces of a large request queued at a time: enough to keep the engine busy, few enough to let others in between."""

LARGE_AT_A_TIME = 2
"""Large requests computed at a time. More would all finish late, with their arrays out of the CPU caches."""

LOSSES = {
    "encode": {-1: "vae_kl_divergence_nats"},
    "redraw": {-1: "vae_kl_divergence_nats"},
    "reconstruct": {-1: "vae_kl_divergence_nats", -2: "vae_reconstruction_loss_nats"},
}
"""Operation → index of each result that is a loss → its histogram."""


class NonFiniteOutput(Exception):
    """The model returned NaN or infinity."""


@dataclass(frozen=True)
class Reconstruction:
    """Reconstructions of N images; losses in nats, (N,) each."""

    mean: FloatArray
    log_variance: FloatArray
    z: FloatArray
    pixels: FloatArray
    reconstruction_loss: FloatArray
    kl_divergence: FloatArray


class Engine:
    """Runs one model. Arrays are float32: images (N, C, H, W) in [0, 1], latents (N, …) of the model's shape."""

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
        """Create the engine.

        Args:
            backend: Computes the model.
            micro_batch_limit: Most rows of a batch.
            deadline: Time of a request in seconds. A large request waits a third of it for its turn.
            threaded: Whether batches are computed in threads; by default, if they are slow.
            counters: Count batches and the losses of images.
            on_batch: Receives the operation of each batch, the timings of its requests, its duration in seconds and
                its number of rows.

        """
        self.config = backend.config
        self._backend = backend
        per_sample = self.config.per_sample
        self._limit = 1 if per_sample else micro_batch_limit
        self._least_rows = 1 if per_sample else find_least_rows(self._reconstruct, self.config, self._limit)
        if threaded is None:
            threaded = (
                per_sample or self._seconds(1) > BLOCKING_LIMIT_S or self._seconds(self._limit) > BATCH_BLOCKING_LIMIT_S
            )
        workers = backend.max_concurrent_batches
        self._threads = ThreadPoolExecutor(workers, "engine", backend.begin_thread) if threaded else None
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
        """Return mean and log-variance of q(z|x), (N, …) each."""
        mean, log_variance, _ = await self._run(self._encoder, (images,), timing)
        return mean, log_variance

    async def decode(self, z: FloatArray, *, timing: Timing | None = None) -> FloatArray:
        """Return images, (N, C, H, W) in [0, 1]."""
        (pixels,) = await self._run(self._decoder, (z,), timing)
        return pixels

    async def decode_scanlines(self, z: FloatArray, *, timing: Timing | None = None) -> ByteArray:
        """Decode to scanlines of a PNG: uint8 (N, H, 1 + W·C), each row of pixels after a zero."""
        scanlines, _ = await self._run(self._scanline_decoder, (z,), timing)
        return scanlines

    async def decode_raw(self, z: FloatArray, dtype: str, *, timing: Timing | None = None) -> ByteArray:
        """Decode to the range of diffusers, about [-1, 1], and one of DTYPES; return the bytes, uint8 (N, …)."""
        pixels, _ = await self._run(self._raw_decoders[dtype], (z,), timing)
        return pixels

    async def reconstruct(
        self, images: FloatArray, noise: FloatArray | None = None, *, timing: Timing | None = None
    ) -> Reconstruction:
        """Decode images from the posterior mean, or from a sample with `noise` (N, …) ~ N(0, I)."""
        noise = self._or_zeros(noise, len(images))
        return Reconstruction(*await self._run(self._reconstructor, (images, noise), timing))

    async def reconstruct_scanlines(
        self, images: FloatArray, noise: FloatArray | None = None, *, timing: Timing | None = None
    ) -> ByteArray:
        """Reconstruct to scanlines, as `decode_scanlines`."""
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
        """Compute −log p(x|z) of N images for K samples z of each posterior, (K, N), nats.

        `noise` (K, …) ~ N(0, I) is the same for all images, so that no image's losses depend on the others.
        """
        count = len(images)

        def cut(start: int) -> Arrays:
            sample, first = divmod(start, count)
            rows = slice(first, first + self._limit)
            return images[rows], mean[rows], log_variance[rows], np.broadcast_to(noise[sample], mean[rows].shape)

        starts = [sample * count + first for sample in range(len(noise)) for first in range(0, count, self._limit)]
        pieces = PIECES_IN_FLIGHT * max(1, self._limit // count)
        (losses,) = await self._run_in_pieces(self._loss_sampler, len(noise) * count, starts, cut, timing, pieces)
        return losses.reshape(len(noise), count)

    def close(self) -> None:
        """Stop the threads, without waiting for their computations."""
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
        in_flight: int,
    ) -> Arrays:
        """Compute `count` rows in pieces, `in_flight` at a time; `cut` returns the piece that starts at a row."""
        timing = timing or Timing()  # the batcher recognises the pieces of one request by it
        results: list[npt.NDArray[Any]] = []

        async def go_through(starts: Sequence[int]) -> None:
            for start in starts:
                piece = await batcher.submit(cut(start), timing)
                if not results:
                    results.extend(np.empty((count, *array.shape[1:]), array.dtype) for array in piece)
                for result, array in zip(results, piece, strict=True):
                    result[start : start + len(array)] = array

        since = time.perf_counter()
        async with self._large_request_slot() if count > self._limit else nullcontext():
            timing.queue += time.perf_counter() - since
            tasks = [asyncio.create_task(go_through(starts[first::in_flight])) for first in range(in_flight)]
            try:
                await asyncio.gather(*tasks)
            finally:  # in Python 3.11 a cancelled TaskGroup leaves a reference cycle around the request
                while tasks:
                    tasks.pop().cancel()
        return tuple(results)

    @asynccontextmanager
    async def _large_request_slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._longest_wait):
                await self._large.acquire()
        except TimeoutError:
            raise Unavailable("Too many large requests are waiting; try again in a moment.", "queue_full") from None
        try:
            yield
        finally:
            self._large.release()

    @np.errstate(all="ignore")  # reported by NonFiniteOutput
    def _compute(self, operation: Operation, items: Sequence[Arrays]) -> list[Arrays | Exception]:
        """Run `operation` once on the rows of all items; split its results, with NonFiniteOutput for items with NaN."""
        rows = sum(len(item[0]) for item in items)
        arrays = operation(*(self._join(column, rows) for column in zip(*items, strict=True)))
        results: list[Arrays | Exception] = []
        is_finite = _all_finite(arrays)
        start = 0
        for item in items:
            stop = start + len(item[0])
            part = tuple([array[start:stop] for array in arrays])
            results.append(part if is_finite or _all_finite(part) else NonFiniteOutput())
            start = stop
        return results

    def _join(self, column: Sequence[FloatArray], rows: int) -> FloatArray:
        """Concatenate arrays (n, …) of `rows` rows in total, padded by zeros to the least rows."""
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
        """Time decoding `rows` rows, in seconds; the best of five, because first passes allocate and choose kernels."""
        z = np.zeros((rows, *self.config.latent_shape), np.float32)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            self._compute(self._decode_scanlines, [(z,)])
            seconds.append(time.perf_counter() - start)
        return min(seconds)


def _all_finite(arrays: Sequence[npt.NDArray[Any]]) -> bool:
    return all(array.dtype == np.uint8 or _is_finite(array) for array in arrays)


def _is_finite(array: FloatArray) -> bool:
    """Return whether all values are finite. A finite sum proves it; otherwise check each value."""
    if array.ndim == 1:
        return all(map(isfinite, array.tolist()))
    return isfinite(array.sum()) or bool(np.isfinite(array).all())
