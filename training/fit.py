"""From a configuration to a checkpoint, its figures, its history and its latents."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import vae
from training.config import FitConfig
from training.data import Dataset, load
from training.evaluate import DRAWS, SEED, Figures, evaluate, latent_means
from training.loop import new_state, train_epochs
from training.network import new_model
from training.optimizers import learning_rate
from training.state import TrainingState
from training.workers import Workers, join_workers
from vae.files import write_atomically


@dataclass(frozen=True)
class Outputs:
    """The files that a training writes, all beside its checkpoint."""

    checkpoint: Path

    @property
    def state(self) -> Path:
        """What --resume reads."""
        return self.checkpoint.with_suffix(".state.pt")

    @property
    def history(self) -> Path:
        """A JSON line for each epoch."""
        return self.checkpoint.with_suffix(".history.jsonl")

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's folder of logs."""
        return self.checkpoint.with_suffix(".tensorboard")


def fit(config: FitConfig) -> None:
    """Train as `config` says: checkpoint, history and state after every epoch, figures and latents after the last.

    Raises ConfigError, DataError or TrainingError; a KeyboardInterrupt says what was kept.
    """
    with join_workers(config.device) as workers, _precision(config.matmul_precision):
        with workers.first_alone():
            train, test = load(config.dataset, config.data_dir, config.image_size or None)
        train, validation = train.hold_out(config.held_out(len(train)))
        if workers.first:
            _announce(config, workers, train, validation, test)
        outputs = Outputs(config.out)
        config.out.parent.mkdir(parents=True, exist_ok=True)
        model = new_model(config, train).to(workers.device)
        state = new_state(config, model, workers.device)
        if config.resume and outputs.state.exists():
            state.resume(outputs.state, config)
            _say(workers, f"Going on after epoch {state.epoch} and {state.seen:,} images.")
        elif config.resume:
            _say(workers, f"There is no {outputs.state} to resume: starting from the first step.")
        try:
            _train(config, outputs, state, train.to(workers.device), validation.to(workers.device), workers)
        except KeyboardInterrupt:
            epochs = len(state.history)
            kept = f"{config.out} holds epoch {epochs}, whole, without figures and latents"
            kept = kept if epochs else "no epoch was finished, no checkpoint was written"
            raise KeyboardInterrupt(f"Interrupted: {kept}. The same command with --resume goes on.") from None
    if workers.first:
        _finish(config, model, state, len(train), test)


def _train(
    config: FitConfig, outputs: Outputs, state: TrainingState, train: Dataset, validation: Dataset, workers: Workers
) -> None:
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    for _ in train_epochs(config, state, train, workers, outputs.state):
        reconstruction, kl = (workers.total(state.sums) / len(train)).tolist()
        if not workers.first:
            continue
        figures = {"train": Figures(reconstruction, kl)}
        if len(validation):
            figures["validation"] = evaluate(state.model, validation.images, draws=1, seed=SEED)
        record: dict[str, float] = {"epoch": state.epoch, "seconds": round(state.seconds, 2)}
        record["learning_rate"] = learning_rate(
            config, state.epoch * steps_per_epoch - 1, config.epochs * steps_per_epoch
        )
        for part, figure in figures.items():
            record |= figure.as_dict(f"{part}_")
        words = "   ".join(f"{part}: {figure.describe()}" for part, figure in figures.items())
        tqdm.write(f"epoch {state.epoch}/{config.epochs}   {words}   {state.seconds:.1f} s", file=sys.stdout)

        vae.LatentSet.path_beside(config.out).unlink(missing_ok=True)  # what an older checkpoint left
        vae.save(config.out, state.model, training=_told(config, state, len(train), record), figures={})
        state.history.append(record)
        write_atomically(outputs.history, "".join(json.dumps(line) + "\n" for line in state.history).encode())
        if config.tensorboard:
            with SummaryWriter(outputs.tensorboard) as writer:
                for name, value in record.items():
                    writer.add_scalar(name.replace("_", "/", 1), value, state.epoch)


def _finish(config: FitConfig, model: vae.VAE, state: TrainingState, images: int, test: Dataset) -> None:
    figures = evaluate(model, test.images, draws=DRAWS, seed=SEED, progress=True)
    latents = vae.LatentSet(latent_means(model, test.images), test.labels)
    vae.save(
        config.out, model, training=_told(config, state, images, state.history[-1]), figures=figures.as_dict("test_")
    )
    latents.save(config.out, vae.load(config.out).sha256)
    print(f"test: {figures.describe()} (nats per image)")
    print(f"Wrote {config.out} and {vae.LatentSet.path_beside(config.out)}.")


def _told(config: FitConfig, state: TrainingState, images: int, last_epoch: dict[str, float]) -> dict[str, Any]:
    """What the checkpoint says of its training."""
    return config.recorded() | {
        "training_images": images,
        "epochs_finished": state.epoch,
        "seconds": round(state.seconds, 2),
        "torch": torch.__version__,
        "last_epoch": last_epoch,
    }


def _announce(config: FitConfig, workers: Workers, train: Dataset, validation: Dataset, test: Dataset) -> None:
    print(f"Training on {train.name}: {train.describe()}.")
    print(f"Held out for validation: {len(validation):,} more. Test: {len(test):,}.")
    together = f", {workers.count} processes" if workers.count > 1 else ""
    steps = f"{config.epochs} epochs in batches of {config.batch_size}"
    print(f"Recipe {config.recipe}: {steps} on {workers.device}{together}.", flush=True)


def _say(workers: Workers, sentence: str) -> None:
    if workers.first:
        print(sentence, flush=True)


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
