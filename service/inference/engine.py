"""The model behind micro-batchers: requests of any number of rows, computed together with those of other requests.

A call goes through `Engine`'s public methods, `Chunker` (requests larger than a batch), `MicroBatcher` (which requests
form a batch), `Engine._compute` (one batch as one array) and an operation, which calls the backend.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, cast

import numpy as np

from service.inference.backend import (
    DTYPES,
    Arrays,
    Backend,
    ByteArray,
    FloatArray,
    VideoBackend,
)
from service.inference.batching import MicroBatcher
from service.inference.chunks import CHUNKS_IN_FLIGHT, Chunker
from service.inference.finite import NonFiniteOutput, all_finite
from service.inference.lanes import Lanes
from service.inference.pieces import PieceDecoder
from service.inference.posterior import draw_posterior, kl_divergence
from service.inference.progress import Progress
from service.inference.reconstruction import Reconstruction
from service.inference.turns import Turns
from service.telemetry.counters import Counters
from service.telemetry.timing import Timing

Operation = Callable[..., Arrays]
"""Arrays of N rows in, arrays of N rows out."""

BLOCKING_LIMIT_S = 0.001
"""Seconds: a model that takes longer for one image is computed in a thread, beside the event loop."""
BATCH_BLOCKING_LIMIT_S = 0.005
"""Seconds: so is one that takes longer for its largest batch."""

LOSSES = {
    "encode": {-1: "vae_kl_divergence_nats"},
    "redraw": {-1: "vae_kl_divergence_nats"},
    "reconstruct": {-1: "vae_kl_divergence_nats", -2: "vae_reconstruction_loss_nats"},
}
"""Operation → which of its results are losses → the histogram of each."""


class Engine:
    """Runs one model; all arrays are float32, images (N, C, H, W) in [0, 1], latents (N, …) of the model's shape.

    Models of videos have these, (N, C, T, H, W), in the place of images.

    Each method raises NonFiniteOutput where its results are not finite, Unavailable where too many large requests wait,
    and TooLarge where the memory for computations does not suffice for an image.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        micro_batch_limit: int,
        deadline: float = 30,
        threaded: bool | None = None,
        counters: Counters | None = None,
        on_batch: Callable[[str, Sequence[Timing], float, int], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Measure the backend and create the batchers.

        Args:
            backend: Computes the model.
            micro_batch_limit: Most rows of a batch; `backend.memory` may allow fewer.
            deadline: Of a request, in seconds; one larger than a batch waits at most a third of it for its turn.
            threaded: Compute batches in a thread instead of on the event loop; by default if the model is slow, and
                always if `backend.memory` says that its images may be large.
            counters: Where batches, and the losses of encoded images, are counted.
            on_batch: Called after each batch with the operation's name, the timings of its requests, its duration in
                seconds and its rows.
            clock: What the backend is measured by, seconds: `time.thread_time` where other threads compete with this.

        """
        self.config = backend.config
        self._backend = backend
        self._clock = clock
        memory = backend.memory
        self._lanes = Lanes(self.config, memory, micro_batch_limit)
        self._limit = self._lanes.batch_limit(self.config.image_shape)
        self._row_multiple = backend.find_row_multiple(self._limit) if memory is None else 1
        if memory:
            threaded = True
        elif threaded is None:
            threaded = (
                self._measure_seconds(1) > BLOCKING_LIMIT_S
                or self._measure_seconds(self._limit) > BATCH_BLOCKING_LIMIT_S
            )
        self.is_inline = not threaded
        """Whether batches are computed on the event loop."""
        self._turns = Turns(backend.max_concurrent_batches, backend.begin_thread)
        self._progress = Progress(self._turns)
        if memory:
            memory.breaks = self._progress
        self._chunker = Chunker(deadline / 3)
        self._counters = counters or Counters()
        self._on_batch = on_batch
        self._batchers: list[MicroBatcher[Any, Any]] = []
        self.encoder = self._create_batcher("encode", self._encode)
        self.decoder = self._create_batcher("decode", self._decode, takes_latents=True)
        self.scanline_decoder = self._create_batcher("draw", self._decode_scanlines, takes_latents=True)
        self._reconstructor = self._create_batcher("reconstruct", self._reconstruct, passes=2)
        self.scanline_reconstructor = self._create_batcher("redraw", self._reconstruct_scanlines, passes=2)
        self._loss_sampler = self._create_batcher("losses", self._losses)
        self._loss_mapper = self._create_batcher("loss_map", self._pixel_losses, passes=2)
        video_backend = cast("VideoBackend", backend)  # used where the configuration is of videos
        self._piece_decoder = PieceDecoder(video_backend, self._turns, self._observer("pieces"))
        self._batchers.append(self._piece_decoder.batcher)
        self._raw_decoders = {
            dtype: self._create_batcher("signed", partial(backend.decode_raw, dtype=dtype), takes_latents=True)
            for dtype in DTYPES
        }

    @property
    def waiting(self) -> int:
        """Rows in the queues."""
        return sum(batcher.waiting for batcher in self._batchers)

    async def encode(self, images: FloatArray, *, timing: Timing | None = None) -> tuple[FloatArray, FloatArray]:
        """Mean and log-variance of q(z|x), (N, …) each."""
        mean, log_variance, _ = await self._run(self.encoder, (images,), timing)
        return mean, log_variance

    async def decode(self, z: FloatArray, *, timing: Timing | None = None) -> FloatArray:
        """Images, (N, C, H, W) in [0, 1]."""
        (pixels,) = await self._run(self.decoder, (z,), timing)
        return pixels

    def decode_pieces(self, z: FloatArray, *, timing: Timing | None = None) -> AsyncGenerator[ByteArray]:
        """Frames of the video of one latent z (1, …), uint8 (T, H, W, C), as soon as some of them are decoded."""
        if memory := self._backend.memory:
            memory.check(self.config.image_shape_of(z.shape[1:]) or self.config.image_shape)
        return self._piece_decoder.decode(z, timing)

    async def decode_scanlines(self, z: FloatArray, *, timing: Timing | None = None) -> ByteArray:
        """As `decode`, as a PNG's scanlines: uint8 (N, H, 1 + W·C), each row of pixels after a zero.

        Those of videos are (N, T, H, 1 + W·C).
        """
        scanlines, _ = await self._run(self.scanline_decoder, (z,), timing)
        return scanlines

    async def decode_raw(self, z: FloatArray, dtype: str, *, timing: Timing | None = None) -> ByteArray:
        """Images as diffusers has them, (N, C, H, W) about in [-1, 1], as one of DTYPES: their bytes, uint8 (N, …)."""
        pixels, _ = await self._run(self._raw_decoders[dtype], (z,), timing)
        return pixels

    async def reconstruct(
        self, images: FloatArray, noise: FloatArray | None = None, *, timing: Timing | None = None
    ) -> Reconstruction:
        """Images decoded from the posterior's mean, or from its sample with `noise` (N, …) ~ N(0, I)."""
        noise = self._or_zeros(noise, images)
        return Reconstruction(*await self._run(self._reconstructor, (images, noise), timing))

    async def reconstruct_scanlines(
        self, images: FloatArray, noise: FloatArray | None = None, *, timing: Timing | None = None
    ) -> ByteArray:
        """The images of `reconstruct` as a PNG's scanlines, like those of `decode_scanlines`."""
        noise = self._or_zeros(noise, images)
        scanlines, _, _ = await self._run(self.scanline_reconstructor, (images, noise), timing)
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
        """−log p(x|z) of N images under K samples z of each one's posterior, (K, N), nats.

        `noise` (N, K, …) is that of `vae.noise`, so that no image's losses depend on the others.
        """
        count, samples = noise.shape[:2]
        lane = self._lanes.choose(self._loss_sampler, (images,), timing, count * samples)

        def cut(start: int) -> Arrays:
            sample, first = divmod(start, count)
            rows = slice(first, first + lane.limit)
            return images[rows], mean[rows], log_variance[rows], noise[rows, sample]

        starts = [sample * count + first for sample in range(samples) for first in range(0, count, lane.limit)]
        in_flight = CHUNKS_IN_FLIGHT * max(1, lane.limit // count)
        (losses,) = await self._chunker.run_chunks(lane.batcher, samples * count, starts, cut, timing, in_flight)
        return losses.reshape(samples, count)

    async def pixel_losses(self, images: FloatArray, *, timing: Timing | None = None) -> FloatArray:
        """−log p(x|z) at the posterior's mean z, per pixel and summed over channels: (N, 1, H, W), nats."""
        (losses,) = await self._run(self._loss_mapper, (images,), timing)
        return losses

    def close(self) -> None:
        """End the threads, if there are any, without waiting for what they compute, and free the model."""
        self._turns.close()
        for batcher in self._batchers:
            batcher.close()
        vars(self).clear()  # batchers and engine refer to each other: the garbage collector would free them much later

    def _run(self, batcher: MicroBatcher[Arrays, Arrays], rows: Arrays, timing: Timing | None) -> Awaitable[Arrays]:
        lane = self._lanes.choose(batcher, rows, timing)
        return self._chunker.run(lane.batcher, lane.limit, rows, timing)

    def _or_zeros(self, noise: FloatArray | None, images: FloatArray) -> FloatArray:
        shape = self.config.latent_shape_of(images.shape[1:])
        return np.zeros((len(images), *shape), np.float32) if noise is None else noise

    # Batches

    def _create_batcher(
        self, name: str, operation: Operation, *, takes_latents: bool = False, passes: int = 1
    ) -> MicroBatcher[Arrays, Arrays]:
        """A batcher of `operation`; `name` is its label in the metrics and the traces.

        The operation takes latents or images, and computes each by so many passes of the encoder or the decoder.
        """

        def compute(items: Sequence[Arrays]) -> list[Arrays | Exception]:
            return self._compute(operation, items)

        def compute_long(items: Sequence[Arrays]) -> list[Arrays | Exception]:
            with self._progress.follow(name, long, self._lanes.pieces(short, items[0])):
                return compute(items)

        create = partial(
            MicroBatcher[Arrays, Arrays],
            size=lambda item: len(item[0]),
            max_concurrent_batches=self._backend.max_concurrent_batches,
            observe=self._observer(name),
        )
        if self._backend.memory is None:
            short = create(compute, limit=self._limit, executor=None if self.is_inline else self._turns.short)
        else:
            short = create(
                compute,
                limit=self._limit,
                executor=self._turns.short,
                kind=lambda item: item[0].shape[1:],
                kind_limit=lambda item: self._lanes.batch_limit(self._lanes.image_shape(short, item)),
            )
            long = create(compute_long, limit=1, executor=self._turns.long)
            self._batchers.append(long)
            self._lanes.add(short, long, takes_latents=takes_latents, passes=passes)
        self._batchers.append(short)
        return short

    def _observer(
        self, name: str
    ) -> Callable[[Sequence[Arrays | Exception | None], Sequence[Timing], float, int], None]:
        """What counts the batches of the operation `name`."""
        queued, computed, sizes = (
            self._counters.histogram(f"vae_{what}", name)
            for what in ("queue_duration_seconds", "compute_duration_seconds", "batch_rows")
        )

        def observe(
            results: Sequence[Arrays | Exception | None], timings: Sequence[Timing], seconds: float, rows: int
        ) -> None:
            queued.add_all([timing.queue for timing in timings if timing.batches == 1])
            computed.add(seconds)
            sizes.add(rows)
            for column, loss in LOSSES.get(name, {}).items():
                values = (result[column].tolist() for result in results if isinstance(result, tuple))
                self._counters.histogram(loss).add_all(list(chain.from_iterable(values)))
            if self._on_batch:
                self._on_batch(name, timings, seconds, rows)

        return observe

    @np.errstate(all="ignore")  # numbers that are not finite are reported as NonFiniteOutput
    def _compute(self, operation: Operation, items: Sequence[Arrays]) -> list[Arrays | Exception]:
        """The results of each item, or NonFiniteOutput, from one call of `operation` on the rows of all of them."""
        rows = sum(len(item[0]) for item in items)
        arrays = operation(*(self._concatenate(column, rows) for column in zip(*items, strict=True)))
        results: list[Arrays | Exception] = []
        are_finite = all_finite(arrays)
        start = 0
        for item in items:
            stop = start + len(item[0])
            part = tuple([array[start:stop] for array in arrays])
            results.append(part if are_finite or all_finite(part) else NonFiniteOutput())
            start = stop
        return results

    def _concatenate(self, column: Sequence[FloatArray], rows: int) -> FloatArray:
        """Arrays (n, …) of `rows` rows in total as one, padded with zeros to a multiple of `_row_multiple` rows."""
        if padding := -rows % self._row_multiple:
            column = [*column, np.zeros((padding, *column[0].shape[1:]), np.float32)]
        return np.concatenate(column)

    def _measure_seconds(self, rows: int) -> float:
        """The seconds in which `rows` latents are decoded: the least of five, as the first calls choose kernels."""
        z = np.zeros((rows, *self.config.latent_shape), np.float32)
        seconds = []
        for _ in range(5):
            start = self._clock()
            self._compute(self._decode_scanlines, [(z,)])
            seconds.append(self._clock() - start)
        return min(seconds)

    # Operations

    def _encode(self, images: FloatArray) -> Arrays:
        mean, log_variance = self._backend.encode(images)
        return mean, log_variance, kl_divergence(mean, log_variance)

    def _decode(self, z: FloatArray) -> Arrays:
        return (np.ascontiguousarray(self._backend.decode(z)),)

    def _decode_scanlines(self, z: FloatArray) -> Arrays:
        pixels = self._backend.decode(z)
        pixels *= 255
        pixels += 0.5
        lines = np.moveaxis(pixels, 1, -1).reshape(len(pixels), *pixels.shape[2:-1], -1)
        scanlines = np.zeros((*lines.shape[:-1], 1 + lines.shape[-1]), np.uint8)
        scanlines[..., 1:] = lines
        return scanlines, pixels.sum(tuple(range(1, pixels.ndim)))  # the sum is finite where all pixels are

    def _reconstruct(self, images: FloatArray, noise: FloatArray) -> Arrays:
        mean, log_variance = self._backend.encode(images)
        z = draw_posterior(mean, log_variance, noise)
        pixels, loss = self._backend.reconstruct(z, images)
        return mean, log_variance, z, np.ascontiguousarray(pixels), loss, kl_divergence(mean, log_variance)

    def _reconstruct_scanlines(self, images: FloatArray, noise: FloatArray) -> Arrays:
        mean, log_variance = self._backend.encode(images)
        scanlines, sums = self._decode_scanlines(draw_posterior(mean, log_variance, noise))
        return scanlines, sums, kl_divergence(mean, log_variance)

    def _losses(self, images: FloatArray, mean: FloatArray, log_variance: FloatArray, noise: FloatArray) -> Arrays:
        _, loss = self._backend.reconstruct(draw_posterior(mean, log_variance, noise), images)
        return (loss,)

    def _pixel_losses(self, images: FloatArray) -> Arrays:
        mean, _ = self._backend.encode(images)
        return (np.ascontiguousarray(self._backend.pixel_losses(mean, images)),)
