"""Train a model from a configuration: write its checkpoint, metrics, history and latents."""

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
from training.fitting.distributed import Processes, join_processes
from training.fitting.initialization import new_model, require_memory
from training.fitting.lineage import describe_data, find_doubts
from training.fitting.loop import new_state, train_epochs
from training.fitting.model_card import remove_card, write_card
from training.fitting.optimizers import describe_optimizers, describe_warmup
from training.fitting.outputs import Outputs
from training.fitting.state import TrainingError, TrainingState
from training.metrics.calibration import calibrate
from training.metrics.elbo import Metrics, evaluate, latent_means
from training.metrics.report import left_out
from training.metrics.summary import measure
from vae.files import name_in_errors, write_atomically
from vae.noise import SEED, image_noise

IMPORTANCE_SAMPLES = 100
"""Samples K per image of the bound on log p(x) that `fit` measures at its end; `vae-train evaluate` uses 5,000."""
MEASURE_SHARE = 0.1
"""Time for the metrics at the end of `fit`, as a share of the training time."""
MEASURE_LEAST_S = 1.0
"""Least time for the metrics at the end of `fit`, in seconds."""


def fit(config: FitConfig, given: Collection[str] = NETWORK) -> None:
    """Train a model; write checkpoint, history and state after every epoch, metrics, card and latents at the end.

    Args:
        config: All options. The checkpoint `config.init_from`, if there is one, determines the network.
        given: The options of NETWORK that the user gave; they have to agree with that checkpoint.

    Raises:
        ConfigError: An option cannot be used.
        DataError: The data set cannot be read.
        TrainingError: A loss or a weight is not finite. Its message, like that of a KeyboardInterrupt, says which
            epoch the checkpoint on disk holds.

    """
    outputs = Outputs(config.out)
    with ExitStack() as until_the_end:
        with join_processes(config.device) as processes, _precision(config.matmul_precision):
            config.out.parent.mkdir(parents=True, exist_ok=True)
            if processes.is_main_process:
                until_the_end.enter_context(outputs.locked())
            with processes.main_process_first():
                train, test = load(config.dataset, config.data_dir, config.image_size)
            share = config.validation_share(len(train))
            train, validation = train.split(share)
            if not len(train):
                raise ConfigError("--validation leaves no image to train on: give 0.")
            if processes.is_main_process:
                _announce(config, processes, train, validation, test)
            config, state = _begin(config, given, train, processes)
            state.data = describe_data(train, share)
            if state.started_from and processes.is_main_process:
                for doubt in find_doubts(config.dataset, state.data, state.started_from["training"]):
                    print(f"--init-from: {doubt}", file=sys.stderr)
            _print(processes, describe_optimizers(config, state.optimizers))
            if cut := describe_warmup(config, math.ceil(len(train) / config.batch_size)):
                _print(processes, cut)
            if config.resume and outputs.state.exists():
                state.resume(outputs.state, config)
                _print(processes, f"Continuing after epoch {state.epoch} and {state.seen:,} images.")
            elif config.resume:
                _print(processes, f"There is no {outputs.state} to resume: starting from the first step.")
            with _report_checkpoint(config.out, state):
                _train(config, outputs, state, train.to(processes.device), validation.to(processes.device), processes)
        processes.leave()
        with _report_checkpoint(config.out, state):
            _finish(config, outputs, state, train, validation, test)


def _begin(
    config: FitConfig, given: Collection[str], train: Dataset, processes: Processes
) -> tuple[FitConfig, TrainingState]:
    """Complete the options by those of the network; create the state, with new weights or those of a checkpoint."""
    device = processes.device
    if not config.init_from:
        require_memory(config, train.image_shape, device)
        model = new_model(config, train).to(device)
        config = config.with_network(model.config, given)
        return config, new_state(config, model, device)
    init_from = Path(config.init_from)
    checkpoint = vae.load(init_from, device)
    model = checkpoint.model.requires_grad_(True)
    if model.config.image_shape != train.image_shape:
        theirs, ours = ("×".join(map(str, shape)) for shape in (model.config.image_shape, train.image_shape))
        raise ConfigError(f"--init-from takes images of {theirs}; the data set's are {ours}.")
    config = config.with_network(model.config, given)
    _print(
        processes,
        f"Starting from {config.init_from}: {config.architecture}, hidden width {config.hidden_dim}, "
        f"{config.latent_dim} latent dimensions.",
    )
    state = new_state(config, model, device)
    started_from = {"checkpoint": init_from.name, "sha256": checkpoint.sha256}
    state.started_from = started_from | {"training": checkpoint.training}
    return config, state


@contextmanager
def _report_checkpoint(out: Path, state: TrainingState) -> Iterator[None]:
    """Add to a KeyboardInterrupt and to a TrainingError which epoch the checkpoint `out` holds."""
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
    if not checkpoint or epoch not in state.history:  # it may belong to an earlier training
        return "no epoch was finished, no checkpoint was written"
    without = "" if checkpoint.metrics else ", without figures and latents"
    return f"{out} holds epoch {epoch['epoch']}, whole{without}"


def _train(
    config: FitConfig, outputs: Outputs, state: TrainingState, train: Dataset, validation: Dataset, processes: Processes
) -> None:
    shape = state.model.config.latent_shape
    noise = torch.from_numpy(image_noise(validation.images.cpu().numpy(), 1, shape, SEED))  # the same in each epoch
    for _ in train_epochs(config, state, train, processes, outputs.state):
        reconstruction, kl = (processes.all_reduce(state.sums) / len(train)).tolist()
        if not processes.is_main_process:
            continue
        state.require_finite()
        figures = {"train": Metrics(reconstruction, kl)}
        if len(validation):
            figures["validation"] = evaluate(state.model, validation.images, draws=1, seed=SEED, noise=noise)
        record: dict[str, float] = {"epoch": state.epoch, "seconds": round(state.seconds, 2)}
        record["learning_rate"] = state.optimizers[-1].param_groups[0]["lr"]  # of the last step
        for part, figure in figures.items():
            record |= figure.as_dict(f"{part}_")
        if not all(map(math.isfinite, record.values())):
            raise TrainingError(f"The validation loss is not finite in epoch {state.epoch}: lower --learning-rate.")
        words = "   ".join(f"{part}: {figure.describe()}" for part, figure in figures.items())
        tqdm.write(f"epoch {state.epoch}/{config.all_epochs}   {words}   {state.seconds:.1f} s", file=sys.stdout)

        vae.LatentSet.path_beside(config.out).unlink(missing_ok=True)  # they belong to the previous checkpoint
        remove_card(outputs.card)
        state.history.append(record)
        vae.save(config.out, state.model, training=_training_metadata(config, state, train, record), metrics={})
        write_atomically(outputs.history, "".join(json.dumps(line) + "\n" for line in state.history).encode())
        if config.tensorboard:
            with name_in_errors(outputs.tensorboard), SummaryWriter(outputs.tensorboard) as writer:
                for name, value in record.items():
                    writer.add_scalar(name.replace("_", "/", 1), value, state.epoch)


def _finish(
    config: FitConfig, outputs: Outputs, state: TrainingState, train: Dataset, validation: Dataset, test: Dataset
) -> None:
    model = state.model
    state.require_finite()
    seconds = math.inf if config.measure == "full" else max(MEASURE_LEAST_S, MEASURE_SHARE * state.seconds)
    figures = measure(model, train, test, importance_samples=IMPORTANCE_SAMPLES, seconds=seconds, progress=True)
    latents = vae.LatentSet(latent_means(model, test.images).numpy(), test.labels.numpy())
    calibration = calibrate(model, validation.images, progress=True) if len(validation) else None
    training = _training_metadata(config, state, train, state.history[-1])
    vae.save(config.out, model, training=training, metrics=figures, calibration=calibration)
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


def _training_metadata(
    config: FitConfig, state: TrainingState, train: Dataset, last_epoch: dict[str, float]
) -> dict[str, Any]:
    """Return the checkpoint's `training` metadata."""
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


def _announce(config: FitConfig, processes: Processes, train: Dataset, validation: Dataset, test: Dataset) -> None:
    print(f"Training on {train.name}: {train.describe()}.")
    print(f"Held out for validation: {len(validation):,} more. Test: {len(test):,}.")
    together = f", {processes.world_size} processes" if processes.world_size > 1 else ""
    alone = f" and {config.encoder_epochs} of the encoder alone" if config.encoder_epochs else ""
    steps = f"{config.epochs} epochs{alone} in batches of {config.batch_size}"
    print(f"Recipe {config.preset}: {steps} on {processes.device}{together}.", flush=True)


def _print(processes: Processes, sentence: str) -> None:
    if processes.is_main_process:
        print(sentence, flush=True)


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
