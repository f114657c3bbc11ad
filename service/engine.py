"""The model behind micro-batchers: arrays in, arrays out, whatever else is being computed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.batching import MicroBatcher
from vae.model import VAE, reparameterize
from vae.objective import kl_divergence, reconstruction_loss

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
Arrays = tuple[npt.NDArray[Any], ...]
"""Arrays of one length N: what goes in and comes out of an operation, row by row."""
Operation = Callable[..., tuple[Tensor, ...]]

BLOCKING_LIMIT_S = 0.001
"""A model that takes longer for its largest micro-batch runs in a thread beside the event loop."""

MINIMUM_ROWS = 2
"""A smaller batch is padded: BLAS computes one row by another kernel, whose last bits differ."""


@dataclass(frozen=True)
class Reconstruction:
    """What `/reconstruct` tells of N images; losses in nats, (N,) each."""

    mean: FloatArray
    log_variance: FloatArray
    z: FloatArray
    pixels: FloatArray
    reconstruction_loss: FloatArray
    kl_divergence: FloatArray

    @property
    def elbo(self) -> FloatArray:
        """Evidence lower bound, (N,), nats."""
        return -(self.reconstruction_loss + self.kl_divergence)


class Engine:
    """Runs one model; all arrays are float32, images (N, C, H, W) in [0, 1], latents (N, D)."""

    def __init__(
        self,
        model: VAE,
        *,
        micro_batch_limit: int,
        device: torch.device | str = "cpu",
        threaded: bool | None = None,
    ) -> None:
        """`threaded` says whether a batch is computed in a thread beside the event loop; by default, if it is slow."""
        self.config = model.config
        self._model = model
        lay_out(model)
        self._device = torch.device(device)
        self._limit = micro_batch_limit
        # Several threads share the work out by the number of rows, so that it must not vary.
        self._least_rows = MINIMUM_ROWS if torch.get_num_threads() == 1 else micro_batch_limit
        if threaded is None:
            threaded = self._seconds_per_micro_batch() > BLOCKING_LIMIT_S
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine") if threaded else None
        self._encoder = self._batcher(self._encode)
        self._decoder = self._batcher(self._decode)
        self._drawer = self._batcher(self._draw)
        self._reconstructor = self._batcher(self._reconstruct)
        self._redrawer = self._batcher(self._redraw)

    async def encode(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and log-variance of q(z|x), (N, D) each."""
        mean, log_variance = await self._run(self._encoder, (images,))
        return mean, log_variance

    async def decode(self, z: FloatArray) -> FloatArray:
        """Images, (N, C, H, W) in [0, 1]."""
        (pixels,) = await self._run(self._decoder, (z,))
        return pixels

    async def draw(self, z: FloatArray) -> ByteArray:
        """As `decode`, in the 256 levels of a picture: uint8 (N, H, W, C)."""
        (levels,) = await self._run(self._drawer, (z,))
        return levels

    async def reconstruct(self, images: FloatArray, noise: FloatArray | None = None) -> Reconstruction:
        """Images decoded from the posterior's mean, or from its sample with `noise` (N, D) ~ N(0, I)."""
        noise = self._or_zeros(noise, len(images))
        return Reconstruction(*await self._run(self._reconstructor, (images, noise)))

    async def redraw(self, images: FloatArray, noise: FloatArray | None = None) -> ByteArray:
        """The images that `reconstruct` gives, in the 256 levels of a picture: uint8 (N, H, W, C)."""
        (levels,) = await self._run(self._redrawer, (images, self._or_zeros(noise, len(images))))
        return levels

    def close(self) -> None:
        """Let the thread go, if there is one."""
        if self._thread is not None:
            self._thread.shutdown()

    def _or_zeros(self, noise: FloatArray | None, count: int) -> FloatArray:
        return np.zeros((count, self.config.latent_dim), np.float32) if noise is None else noise

    def _batcher(self, operation: Operation) -> MicroBatcher[Arrays, Arrays]:
        def compute(items: Sequence[Arrays]) -> list[Arrays]:
            return self._compute(operation, items)

        return MicroBatcher(compute, limit=self._limit, size=lambda item: len(item[0]), executor=self._thread)

    async def _run(self, batcher: MicroBatcher[Arrays, Arrays], rows: Arrays) -> Arrays:
        total = len(rows[0])
        if total <= self._limit:
            return await batcher.submit(rows)
        pieces = [tuple(a[start : start + self._limit] for a in rows) for start in range(0, total, self._limit)]
        results = await asyncio.gather(*(batcher.submit(piece) for piece in pieces))
        return tuple(np.concatenate(column) for column in zip(*results, strict=True))

    def _compute(self, operation: Operation, items: Sequence[Arrays]) -> list[Arrays]:
        """One forward pass over all items, in whole rows, and its results cut up again."""
        spare = max(0, self._least_rows - sum(len(item[0]) for item in items))
        columns = [
            np.concatenate([*column, np.zeros((spare, *column[0].shape[1:]), np.float32)])
            for column in zip(*items, strict=True)
        ]
        with torch.inference_mode():
            outputs = operation(*(torch.from_numpy(column).to(self._device) for column in columns))
        arrays = [output.cpu().numpy() for output in outputs]
        results: list[Arrays] = []
        start = 0
        for item in items:
            stop = start + len(item[0])
            results.append(tuple(array[start:stop] for array in arrays))
            start = stop
        return results

    def _encode(self, images: Tensor) -> tuple[Tensor, ...]:
        return self._model.encode(images)

    def _decode(self, z: Tensor) -> tuple[Tensor, ...]:
        return (_sigmoid_(self._model.decode(z)),)

    def _draw(self, z: Tensor) -> tuple[Tensor, ...]:
        (pixels,) = self._decode(z)
        return (pixels.mul_(255).add_(0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous(),)

    def _redraw(self, images: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        return self._draw(reparameterize(*self._model.encode(images), noise=noise))

    def _reconstruct(self, images: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        mean, log_variance = self._model.encode(images)
        z = reparameterize(mean, log_variance, noise=noise)
        logits = self._model.decode(z)
        distortion, rate = reconstruction_loss(logits, images), kl_divergence(mean, log_variance)
        return mean, log_variance, z, _sigmoid_(logits), distortion, rate

    def _seconds_per_micro_batch(self) -> float:
        """Best of a few: the first passes allocate and choose kernels."""
        z = np.zeros((self._limit, self.config.latent_dim), np.float32)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            self._compute(self._decode, [(z,)])
            seconds.append(time.perf_counter() - start)
        return min(seconds)


def lay_out(model: VAE) -> None:
    """Lay the matrices of `model` out in memory as (inputs, outputs), their shape being the other way round.

    BLAS then computes any number of rows above one by the same kernel, bit for bit, and a few rows faster.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.t().contiguous().t()  # copies nothing the second time


def _sigmoid_(logits: Tensor) -> Tensor:
    """In place; torch's own takes another formula, whose last bits differ, where a tensor or a thread's share ends."""
    return logits.neg_().exp_().add_(1).reciprocal_()


def draw_posterior(mean: FloatArray, log_variance: FloatArray, noise: FloatArray) -> FloatArray:
    """Samples (N, D) of q(z|x) with `noise` (N, D) ~ N(0, I), as `Engine.reconstruct` draws them."""
    z = reparameterize(torch.from_numpy(mean), torch.from_numpy(log_variance), noise=torch.from_numpy(noise))
    return z.numpy()
