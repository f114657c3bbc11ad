"""From a configuration to a checkpoint, its figures, its history and its latents."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import vae
from training.card import remove_card, write_card
from training.config import ConfigError, FitConfig
from training.data import Dataset, load
from training.evaluate import SEED, Figures, evaluate, latent_means
from training.loop import new_state, train_epochs
from training.measure import measure
from training.network import new_model
from training.optimizers import learning_rate_of
from training.outputs import Outputs
from training.state import TrainingState
from training.workers import Workers, join_workers
from vae.files import write_atomically

IMPORTANCE_SAMPLES = 100
"""K of the bound on log p(x) at the end of a training: seconds. `vae-train evaluate` takes 5,000: minutes."""


def fit(config: FitConfig) -> None:
    """Train as `config` says: checkpoint, history and state after every epoch; figures, card and latents at the end.

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
        state = _begin(config, train, workers.device)
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
    workers.leave()
    _finish(config, outputs, state, train, test)


def _begin(config: FitConfig, train: Dataset, device: torch.device) -> TrainingState:
    """A training before its first step, of new weights or of a checkpoint's."""
    if not config.start_from:
        return new_state(config, new_model(config, train).to(device), device)
    checkpoint = vae.load(Path(config.start_from), device)
    model = checkpoint.model.requires_grad_(True)
    if model.config.image_shape != train.image_shape:
        theirs, ours = ("×".join(map(str, shape)) for shape in (model.config.image_shape, train.image_shape))
        raise ConfigError(f"--start-from takes images of {theirs}; the data set's are {ours}.")
    state = new_state(config, model, device)
    state.started_from = {"sha256": checkpoint.sha256, "training": checkpoint.training}
    return state


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
        record["learning_rate"] = learning_rate_of(config, state.epoch * steps_per_epoch - 1, steps_per_epoch)
        for part, figure in figures.items():
            record |= figure.as_dict(f"{part}_")
        words = "   ".join(f"{part}: {figure.describe()}" for part, figure in figures.items())
        tqdm.write(f"epoch {state.epoch}/{config.all_epochs}   {words}   {state.seconds:.1f} s", file=sys.stdout)

        vae.LatentSet.path_beside(config.out).unlink(missing_ok=True)  # what an older checkpoint left
        remove_card(outputs.card)
        vae.save(config.out, state.model, training=_told(config, state, len(train), record), figures={})
        state.history.append(record)
        write_atomically(outputs.history, "".join(json.dumps(line) + "\n" for line in state.history).encode())
        if config.tensorboard:
            with SummaryWriter(outputs.tensorboard) as writer:
                for name, value in record.items():
                    writer.add_scalar(name.replace("_", "/", 1), value, state.epoch)


def _finish(config: FitConfig, outputs: Outputs, state: TrainingState, train: Dataset, test: Dataset) -> None:
    model = state.model
    figures = measure(model, train, test, importance_samples=IMPORTANCE_SAMPLES, progress=True)
    latents = vae.LatentSet(latent_means(model, test.images), test.labels)
    vae.save(config.out, model, training=_told(config, state, len(train), state.history[-1]), figures=figures)
    checkpoint = vae.load(config.out)
    latents.save(config.out, checkpoint.sha256)
    written = write_card(outputs.card, checkpoint)
    losses = Figures(figures["test_reconstruction_loss"], figures["test_kl_divergence"])
    print(f"test: {losses.describe()} (nats per image)")
    card = f", and {outputs.card}" if written else f"; {outputs.card} is not vae-train's and was left as it is"
    print(f"Wrote {config.out}, {vae.LatentSet.path_beside(config.out)}{card}.")


def _told(config: FitConfig, state: TrainingState, images: int, last_epoch: dict[str, float]) -> dict[str, Any]:
    """What the checkpoint says of its training."""
    return config.recorded() | {
        "training_images": images,
        "pictures": {"fit": config.fit},
        "epochs_finished": state.epoch,
        "seconds": round(state.seconds, 2),
        "torch": torch.__version__,
        "last_epoch": last_epoch,
        "started_from": state.started_from,
    }


def _announce(config: FitConfig, workers: Workers, train: Dataset, validation: Dataset, test: Dataset) -> None:
    print(f"Training on {train.name}: {train.describe()}.")
    print(f"Held out for validation: {len(validation):,} more. Test: {len(test):,}.")
    together = f", {workers.count} processes" if workers.count > 1 else ""
    alone = f" and {config.encoder_epochs} of the encoder alone" if config.encoder_epochs else ""
    steps = f"{config.epochs} epochs{alone} in batches of {config.batch_size}"
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
