"""From a configuration to a checkpoint, its figures, its history and its latents."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import vae
from training.config import NETWORK, ConfigError, FitConfig
from training.data.dataset import Dataset
from training.data.load import load
from training.fitting.distributed import Workers, join_workers
from training.fitting.initialization import new_model, require_memory
from training.fitting.lineage import describe_data, find_doubts
from training.fitting.loop import new_state, train_epochs
from training.fitting.model_card import remove_card, write_card
from training.fitting.optimizers import describe_optimizers, describe_warmup
from training.fitting.outputs import Outputs
from training.fitting.state import TrainingError, TrainingState
from training.metrics.elbo import SEED, Metrics, evaluate, latent_means
from training.metrics.report import left_out
from training.metrics.summary import measure
from vae.files import name_in_errors, write_atomically

IMPORTANCE_SAMPLES = 100
"""K of the bound on log p(x) at the end of a training. `vae-train evaluate` takes 5,000."""
MEASURE_SHARE = 0.1
"""Of the training's time, which is added for the figures at its end."""
MEASURE_LEAST_S = 1.0
"""Seconds that the figures may take after the shortest training."""


def fit(config: FitConfig, given: Collection[str] = NETWORK) -> None:
    """Train as `config` says: checkpoint, history and state after every epoch; figures, card and latents at the end.

    A checkpoint of `config.start_from` brings its network; the options of NETWORK that `given` names must be its own.
    Raises ConfigError, DataError or TrainingError; a KeyboardInterrupt and a TrainingError say what was kept.
    """
    outputs = Outputs(config.out)
    with ExitStack() as until_the_end:
        with join_workers(config.device) as workers, _precision(config.matmul_precision):
            config.out.parent.mkdir(parents=True, exist_ok=True)
            if workers.first:
                until_the_end.enter_context(outputs.locked())
            with workers.first_alone():
                train, test = load(config.dataset, config.data_dir, config.image_size or None)
            share = config.validation_share(len(train))
            train, validation = train.split(share)
            if not len(train):
                raise ConfigError(f"--validation is {config.validation}, which leaves no image to train on: give 0.")
            if workers.first:
                _announce(config, workers, train, validation, test)
            config, state = _begin(config, given, train, workers)
            state.data = describe_data(train, share)
            if state.started_from and workers.first:
                for doubt in find_doubts(config.dataset, state.data, state.started_from["training"]):
                    print(f"--start-from: {doubt}", file=sys.stderr)
            _say(workers, describe_optimizers(config, state.optimizers))
            if cut := describe_warmup(config, math.ceil(len(train) / config.batch_size)):
                _say(workers, cut)
            if config.resume and outputs.state.exists():
                state.resume(outputs.state, config)
                _say(workers, f"Going on after epoch {state.epoch} and {state.seen:,} images.")
            elif config.resume:
                _say(workers, f"There is no {outputs.state} to resume: starting from the first step.")
            with _saying_what_is_kept(config.out, state):
                _train(config, outputs, state, train.to(workers.device), validation.to(workers.device), workers)
        workers.leave()
        with _saying_what_is_kept(config.out, state):
            _finish(config, outputs, state, train, test)


def _begin(
    config: FitConfig, given: Collection[str], train: Dataset, workers: Workers
) -> tuple[FitConfig, TrainingState]:
    """The options with those of the network, and a training before its first step, of new weights or a checkpoint's."""
    device = workers.device
    if not config.start_from:
        require_memory(config, train.image_shape, device)
        model = new_model(config, train).to(device)
        config = config.with_network(model.config, given)
        return config, new_state(config, model, device)
    checkpoint = vae.load(Path(config.start_from), device)
    model = checkpoint.model.requires_grad_(True)
    if model.config.image_shape != train.image_shape:
        theirs, ours = ("×".join(map(str, shape)) for shape in (model.config.image_shape, train.image_shape))
        raise ConfigError(f"--start-from takes images of {theirs}; the data set's are {ours}.")
    config = config.with_network(model.config, given)
    _say(
        workers,
        f"Starting from {config.start_from}: {config.architecture}, hidden width {config.hidden_dim}, "
        f"{config.latent_dim} latent dimensions.",
    )
    state = new_state(config, model, device)
    started_from = {"checkpoint": Path(config.start_from).name, "sha256": checkpoint.sha256}
    state.started_from = started_from | {"training": checkpoint.training}
    return config, state


@contextmanager
def _saying_what_is_kept(out: Path, state: TrainingState) -> Iterator[None]:
    """Tell in an interrupt and in a TrainingError which epoch of this training the checkpoint `out` holds."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted: {_kept(out, state)}. The same command with --resume goes on.") from None
    except TrainingError as error:
        raise TrainingError(f"{error} Now {_kept(out, state)}.") from error


def _kept(out: Path, state: TrainingState) -> str:
    try:
        checkpoint = vae.load(out)
    except vae.CheckpointError:
        checkpoint = None
    epoch = checkpoint and checkpoint.training.get("last_epoch")
    if not checkpoint or epoch not in state.history:  # there may be an older training's
        return "no epoch was finished, no checkpoint was written"
    without = "" if checkpoint.metrics else ", without figures and latents"
    return f"{out} holds epoch {epoch['epoch']}, whole{without}"


def _train(
    config: FitConfig, outputs: Outputs, state: TrainingState, train: Dataset, validation: Dataset, workers: Workers
) -> None:
    for _ in train_epochs(config, state, train, workers, outputs.state):
        reconstruction, kl = (workers.total(state.sums) / len(train)).tolist()
        if not workers.first:
            continue
        state.require_finite()
        figures = {"train": Metrics(reconstruction, kl)}
        if len(validation):
            figures["validation"] = evaluate(state.model, validation.images, draws=1, seed=SEED)
        record: dict[str, float] = {"epoch": state.epoch, "seconds": round(state.seconds, 2)}
        record["learning_rate"] = state.optimizers[-1].param_groups[0]["lr"]  # of the last step
        for part, figure in figures.items():
            record |= figure.as_dict(f"{part}_")
        if not all(map(math.isfinite, record.values())):
            raise TrainingError(
                f"The validation loss is no finite number in epoch {state.epoch}: lower --learning-rate."
            )
        words = "   ".join(f"{part}: {figure.describe()}" for part, figure in figures.items())
        tqdm.write(f"epoch {state.epoch}/{config.all_epochs}   {words}   {state.seconds:.1f} s", file=sys.stdout)

        vae.LatentSet.path_beside(config.out).unlink(missing_ok=True)  # what an older checkpoint left
        remove_card(outputs.card)
        state.history.append(record)
        vae.save(config.out, state.model, training=_told(config, state, train, record), metrics={})
        write_atomically(outputs.history, "".join(json.dumps(line) + "\n" for line in state.history).encode())
        if config.tensorboard:
            with name_in_errors(outputs.tensorboard), SummaryWriter(outputs.tensorboard) as writer:
                for name, value in record.items():
                    writer.add_scalar(name.replace("_", "/", 1), value, state.epoch)


def _finish(config: FitConfig, outputs: Outputs, state: TrainingState, train: Dataset, test: Dataset) -> None:
    model = state.model
    state.require_finite()
    seconds = math.inf if config.measure == "full" else max(MEASURE_LEAST_S, MEASURE_SHARE * state.seconds)
    figures = measure(model, train, test, importance_samples=IMPORTANCE_SAMPLES, seconds=seconds, progress=True)
    latents = vae.LatentSet(latent_means(model, test.images), test.labels)
    vae.save(config.out, model, training=_told(config, state, train, state.history[-1]), metrics=figures)
    checkpoint = vae.load(config.out)
    latents.save(config.out, checkpoint.sha256)
    written = write_card(outputs.card, checkpoint)
    losses = Metrics(figures["test_reconstruction_loss"], figures["test_kl_divergence"])
    if less := left_out(figures, train, test):
        print(
            f"There were {seconds:.1f} s for the figures: {'; '.join(less)}. "
            "vae-train evaluate measures all of it, and so does --measure full."
        )
    print(f"test: {losses.describe()} (nats per image)")
    card = f", and {outputs.card}" if written else f"; {outputs.card} is not vae-train's and was left as it is"
    print(f"Wrote {config.out}, {vae.LatentSet.path_beside(config.out)}{card}.")


def _told(config: FitConfig, state: TrainingState, train: Dataset, last_epoch: dict[str, float]) -> dict[str, Any]:
    """What the checkpoint says of its training."""
    return config.to_metadata() | {
        "data": state.data,
        "classes": train.classes,
        "training_images": len(train),
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
