"""The training loop."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from training.config.fit_config import FitConfig
from training.data.dataset import Dataset, to_pixels
from training.fitting.augmentation import FLIP_CROP_NUMBERS, NUMBERS, random_affine, random_flip_crop
from training.fitting.averaging import new_average, update_average
from training.fitting.distributed import Processes
from training.fitting.initialization import VAELoss
from training.fitting.optimizers import new_optimizers, set_learning_rates
from training.fitting.state import TrainingError, TrainingState
from vae import VAE

READ_EVERY = 50
"""Steps between two reads of the running losses from a GPU, because each read synchronises with it."""
AUGMENTATION_STREAM = 2**62
"""Added to the seeds of the augmentation, so that they are not those of the order of the images."""
SAVE_EVERY_S = 60.0
"""Seconds between two saves of the state within an epoch; only a single process saves there."""


def new_state(config: FitConfig, model: VAE, device: torch.device) -> TrainingState:
    """Create the state of a training of `model` before its first step.

    A resnet gets its channels last in memory, with which a CPU takes a sixth to a third less time for a step.
    """
    if model.config.architecture == "resnet":
        model.to(memory_format=torch.channels_last)
    generator = torch.Generator(device).manual_seed(config.seed)
    sums, loss_sum = torch.zeros(2, device=device), torch.zeros((), device=device)
    average = new_average(model) if config.ema else None
    return TrainingState(model, new_optimizers(config, model), generator, sums, loss_sum, average)


def train_epochs(
    config: FitConfig, state: TrainingState, train: Dataset, processes: Processes, state_path: Path | None = None
) -> Iterator[TrainingState]:
    """Train from `state` to the last epoch: first the whole model, then the encoder alone.

    Changes the state in place, yields it after each epoch, and saves it to `state_path`; ends early if `stopped` is set
    meanwhile. Every process draws the noise of the whole batch and uses its shard of it, so that the number of
    processes changes the result by rounding only.

    Raises:
        TrainingError: The loss, or a value that would be saved, is not finite.

    """
    device, steps_per_epoch = processes.device, math.ceil(len(train) / config.batch_size)
    read_every = 1 if device.type == "cpu" else READ_EVERY
    saved, first_epoch = time.monotonic(), state.epoch
    with Progress(config, state, len(train), quiet=not processes.is_main_process) as progress:
        while state.epoch < config.all_epochs and not state.stopped:
            if state.epoch in (first_epoch, config.epochs):
                encoder_alone = state.epoch >= config.epochs
                if state.epoch == config.epochs and state.position == 0:
                    state.begin_encoder_epochs()
                state.model.decoder.requires_grad_(not encoder_alone)
                state.model.likelihood.requires_grad_(not encoder_alone)
                weighted = config.importance_samples > 1
                objective = processes.parallel(VAELoss(state.model, config.precision, importance_weighted=weighted))
            started = time.perf_counter()
            order = epoch_order(config, state.epoch, len(train)).to(train.images.device)
            numbers = augmentation_numbers(config, state.epoch, len(train)).to(train.images.device)
            for indices in order.split(config.batch_size)[state.position :]:
                step = state.epoch * steps_per_epoch + state.position
                set_learning_rates(state.optimizers, config, step, steps_per_epoch)
                shard = processes.shard(indices)
                images = train.take(shard).to(device, non_blocking=True)
                if config.augment:
                    images = random_flip_crop(images, numbers[shard].to(device), config.augmentations)
                weight = kl_weight(config, step, steps_per_epoch)
                train_step(
                    config, state, objective, images, len(indices), processes, kl_weight=weight, affine=encoder_alone
                )
                if step % read_every == 0 and not bool(state.sums.isfinite().all()):
                    raise TrainingError(f"The loss is not finite at step {step}: lower --learning-rate.")

                state.position += 1
                state.seen += len(indices)
                progress.show(len(indices), state, processes)
                if state_path and processes.world_size == 1 and time.monotonic() - saved > SAVE_EVERY_S:
                    state.save(state_path, config)
                    saved = time.monotonic()

            state.seconds += time.perf_counter() - started
            state.epoch += 1
            yield state
            state.sums.zero_()
            state.loss_sum.zero_()
            state.position = state.seen = 0
            if state_path and processes.is_main_process:
                state.save(state_path, config)
                saved = time.monotonic()


def train_step(
    config: FitConfig,
    state: TrainingState,
    objective: nn.Module,
    images: Tensor,
    count: int,
    processes: Processes,
    *,
    kl_weight: float,
    affine: bool,
) -> None:
    """Update the weights by `images`, uint8 (n, C, H, W), a shard of a batch of `count`; add up the losses.

    Reads no value from the device, so that it never waits for a GPU.
    """
    x = to_pixels(images)
    if affine:
        numbers = torch.rand(count, NUMBERS, generator=state.generator, device=x.device)
        x = random_affine(x, processes.shard(numbers))
    samples, shape = max(config.posterior_samples, config.importance_samples), state.model.config.latent_shape
    noise = torch.randn(count, samples, *shape, generator=state.generator, device=x.device)
    shown = drop_pixels(x, config.input_dropout, state.generator, count, processes)

    reconstruction, kl, bound = objective(x, shown, processes.shard(noise))
    if config.importance_samples > 1:
        loss = bound
    else:
        loss = reconstruction + kl_weight * free_bits(kl, config.free_bits, len(x), count, processes)
    (loss * processes.world_size / count).backward()

    state.sums += torch.stack([reconstruction.detach(), kl.detach().sum()])
    state.loss_sum += loss.detach()
    if config.clip_grad_norm:
        clip_grad_norm_(state.model.parameters(), config.clip_grad_norm)
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    update_average(state, config.ema)


def kl_weight(config: FitConfig, step: int, steps_per_epoch: int) -> float:
    """Return the weight of the KL divergence at `step`: it rises to β in a warm-up (Bowman et al. 2016)."""
    warmup = config.kl_warmup_epochs * steps_per_epoch
    return config.beta * min(1.0, (step + 1) / warmup) if warmup else config.beta


def free_bits(kl: Tensor, least: float, images: int, count: int, processes: Processes) -> Tensor:
    """Bound the KL divergence of each dimension, averaged over the batch, below by `least` nats.

    A dimension below has no gradient, so that it need not collapse onto the prior (Kingma et al. 2016,
    arXiv:1606.04934, section C.8).

    Args:
        kl: Sums over the images of this process, (D,), nats.
        least: The nats that are free; 0 bounds nothing.
        images: Images of this process.
        count: Images of the batch.
        processes: The processes that share the batch.

    Returns:
        The sum over dimensions of this process's part, ().

    """
    if not least:
        return kl.sum()
    costs = processes.all_reduce(kl.detach()) > least * count
    return torch.where(costs, kl, least * images).sum()


def epoch_order(config: FitConfig, epoch: int, count: int) -> Tensor:
    """Return a permutation of the images, int64 (count,), that depends on the seed and the epoch alone."""
    generator = torch.Generator().manual_seed((config.seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator)


def augmentation_numbers(config: FitConfig, epoch: int, count: int) -> Tensor:
    """Return random numbers in [0, 1) for the augmentation of each image, float32 (count, FLIP_CROP_NUMBERS).

    They depend on the seed, the epoch and the image's index alone. Empty without augmentation.
    """
    if not config.augment:
        return torch.empty(0)
    generator = torch.Generator().manual_seed((config.seed * 1_000_003 + epoch + AUGMENTATION_STREAM) % 2**63)
    return torch.rand(count, FLIP_CROP_NUMBERS, generator=generator)


def drop_pixels(x: Tensor, share: float, generator: torch.Generator, count: int, processes: Processes) -> Tensor:
    """Apply dropout (Srivastava et al. 2014) with probability `share` to `x`, this process's shard of `count` images.

    Draws the mask of all `count` images from `generator`.
    """
    if share == 0:
        return x
    kept = torch.empty((count, *x.shape[1:]), device=x.device).bernoulli_(1 - share, generator=generator)
    return x * processes.shard(kept) / (1 - share)


class Progress:
    """Progress bar: epoch, loss and its terms, images per second, time left."""

    def __init__(self, config: FitConfig, state: TrainingState, images: int, *, quiet: bool) -> None:
        self._epochs, self._images = config.all_epochs, images
        self._bar = tqdm(
            total=config.all_epochs * images,
            initial=state.epoch * images + state.seen,
            unit=" images",
            unit_scale=True,
            mininterval=0.2 if sys.stderr.isatty() else 10,  # seconds; keep log files short
            disable=quiet,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, images: int, state: TrainingState, processes: Processes) -> None:
        """Advance by `images`; read the losses only when the bar is redrawn."""
        shown = self._bar.update(images) or state.seen == self._images
        if shown and not self._bar.disable:
            sums = torch.stack([state.loss_sum, *state.sums])
            loss, reconstruction, kl = (sums * processes.world_size / state.seen).tolist()
            self._bar.set_description(f"epoch {state.epoch + 1}/{self._epochs}", refresh=False)
            self._bar.set_postfix_str(
                f"loss {loss:.2f}, reconstruction {reconstruction:.2f}, KL {kl:.2f}", refresh=False
            )
