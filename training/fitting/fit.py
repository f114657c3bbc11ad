"""Train a model from a configuration: write its checkpoint, metrics, history and latents."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import vae
from training.config.file import to_yaml
from training.config.fit_config import FitConfig
from training.config.options import NETWORK, ConfigError
from training.config.presets import PRESETS
from training.data.arrays import with_test_set
from training.data.dataset import Dataset
from training.data.load import load
from training.fitting.distributed import Processes, join_processes
from training.fitting.epochs import keep_epoch, measure_epoch, training_metadata
from training.fitting.initialization import new_model, require_memory
from training.fitting.lineage import describe_data, find_doubts, name_dataset
from training.fitting.logger import Logger, started
from training.fitting.loop import new_state, train_epochs
from training.fitting.model_card import describe_latents, write_card
from training.fitting.optimizers import describe_optimizers, describe_warmup, require_precision
from training.fitting.outputs import Outputs
from training.fitting.selection import describe_kept
from training.fitting.state import TrainingError, TrainingState
from training.metrics.calibration import calibrate
from training.metrics.elbo import Metrics, latent_means
from training.metrics.references import collect_references
from training.metrics.report import left_out
from training.metrics.summary import measure
from vae.files import write_atomically
from vae.noise import SEED, image_noise

IMPORTANCE_SAMPLES = 100
"""Samples K per image of the bound on log p(x) that `fit` measures at its end; `vae-train evaluate` uses 5,000."""
MEASURE_SHARE = 0.1
"""Time for the metrics at the end of `fit`, as a share of the training time."""
MEASURE_LEAST_S = 1.0
"""Least time for the metrics at the end of `fit`, in seconds."""


@dataclass(frozen=True)
class FitResult:
    """A trained model."""

    model: vae.VAE
    """The model as `vae.load` returns it: float32, on the CPU, in evaluation mode and without gradients."""
    metrics: dict[str, float]
    """Metrics on the test and the training set, as `training.metrics.summary.measure` names them."""
    history: list[dict[str, float]]
    """Losses and learning rate of each epoch: the lines of the history file."""


def fit(
    config: FitConfig,
    dataset: Dataset | None = None,
    test: Dataset | None = None,
    *,
    loggers: Sequence[Logger] = (),
    given: Collection[str] | None = None,
) -> FitResult:
    """Train a model; write history, state and the best checkpoint after every epoch, metrics and latents at the end.

    Args:
        config: All options. The checkpoint `config.init_from`, if there is one, determines the network. If `config.out`
            is None, no file is left.
        dataset: The images to train on, from which a validation set is split off; None loads `config.dataset`.
        test: The test images of `dataset`; None splits about a tenth off `dataset`, by a hash of their content.
        loggers: Where metrics are recorded, beside TensorBoard's logs if `config.tensorboard` is set.
        given: The options of NETWORK that the user gave, which have to agree with the checkpoint `config.init_from`;
            None takes those that differ from the preset.

    Returns:
        The trained model with its metrics and history.

    Raises:
        ConfigError: An option cannot be used.
        DataError: The data set cannot be read.
        TrainingError: A loss or a weight is not finite. Its message, like that of a KeyboardInterrupt, says which
            epoch the checkpoint on disk holds.

    """
    with ExitStack() as until_the_end:
        with join_processes(config.device) as processes, _precision(config.matmul_precision):
            out = config.out or Path(until_the_end.enter_context(TemporaryDirectory())) / "model.safetensors"
            outputs = Outputs(out)
            out.parent.mkdir(parents=True, exist_ok=True)
            if processes.is_main_process:
                until_the_end.enter_context(outputs.locked())
            loggers = [*loggers, *_tensorboard(config, outputs)]
            if dataset is None:
                with processes.main_process_first():
                    train, test = load(config.dataset, config.data_dir, config.image_size)
            else:
                config = replace(config, dataset=name_dataset(dataset, config))
                train, test = with_test_set(dataset, test)
            share = config.validation_share(len(train))
            train, validation = _split(config, train, share)
            require_precision(config.precision, processes.device)
            if processes.is_main_process:
                _announce(config, processes, train, validation, test)
            config, state = _begin(config, _given(config) if given is None else given, train, processes)
            state.data = describe_data(train, share)
            if state.started_from and processes.is_main_process:
                for doubt in find_doubts(config.dataset, state.data, state.started_from["training"]):
                    print(f"--init-from: {doubt}", file=sys.stderr)
            _print(processes, describe_optimizers(config, state.optimizers))
            if cut := describe_warmup(config, math.ceil(len(train) / config.batch_size)):
                _print(processes, cut)
            _resume(config, outputs, state, processes)
            if processes.is_main_process:
                write_atomically(outputs.config, to_yaml(replace(config, resume=False)).encode())
                for logger in loggers:
                    until_the_end.enter_context(started(logger, config))
            with _report_checkpoint(config, outputs, state):
                on_device = train.to(processes.device), validation.to(processes.device)
                _train(config, outputs, state, *on_device, processes, loggers)
        processes.leave()
        with _report_checkpoint(config, outputs, state):
            return _finish(config, outputs, state, train, validation, test, loggers)


def _split(config: FitConfig, train: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Split off the validation images; raises ConfigError where one of the two sets lacks images."""
    train, validation = train.split(share)
    if not len(train):
        raise ConfigError("--validation leaves no image to train on: give 0.")
    if config.patience and not len(validation):
        raise ConfigError("--patience needs held-out images: leave out --validation, or give more than 0.")
    return train, validation


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
        f"{describe_latents(model.config)}.",
    )
    state = new_state(config, model, device)
    started_from = {"checkpoint": init_from.name, "sha256": checkpoint.sha256}
    state.started_from = started_from | {"training": checkpoint.training}
    return config, state


def _given(config: FitConfig) -> list[str]:
    preset = PRESETS[config.preset]
    return [name for name in NETWORK if getattr(config, name) != getattr(preset, name)]


def _resume(config: FitConfig, outputs: Outputs, state: TrainingState, processes: Processes) -> None:
    if config.resume and outputs.state.exists():
        state.resume(outputs.state, config)
        _print(processes, f"Continuing after epoch {state.epoch} and {state.seen:,} images.")
    elif config.resume:
        _print(processes, f"There is no {outputs.state} to resume: starting from the first step.")


@contextmanager
def _report_checkpoint(config: FitConfig, outputs: Outputs, state: TrainingState) -> Iterator[None]:
    """Add to a KeyboardInterrupt and to a TrainingError which epoch the checkpoint holds."""
    try:
        yield
    except (KeyboardInterrupt, TrainingError) as error:
        if config.out is None:  # nothing is kept
            raise
        kept = _kept(outputs.checkpoint, state)
        if isinstance(error, TrainingError):
            raise TrainingError(f"{error} Now {kept}.") from error
        raise KeyboardInterrupt(f"Interrupted: {kept}. The same command with --resume goes on.") from None


def _kept(out: Path, state: TrainingState) -> str:
    try:
        checkpoint = vae.load(out)
    except vae.CheckpointError:
        checkpoint = None
    epoch = checkpoint and checkpoint.training.get("kept_epoch")
    if not checkpoint or epoch not in state.history:  # it may belong to an earlier training
        return "no epoch was finished, no checkpoint was written"
    without = "" if checkpoint.metrics else ", without figures and latents"
    return f"{out} holds epoch {epoch['epoch']}, whole{without}"


def _train(
    config: FitConfig,
    outputs: Outputs,
    state: TrainingState,
    train: Dataset,
    validation: Dataset,
    processes: Processes,
    loggers: Sequence[Logger],
) -> None:
    shape = state.model.config.latent_shape
    noise = torch.from_numpy(image_noise(validation.images.cpu().numpy(), 1, shape, SEED))  # the same in each epoch
    for _ in train_epochs(config, state, train, processes, outputs.state):
        losses = [processes.all_reduce(each) / len(train) for each in (state.sums, state.loss_sum)]
        if processes.is_main_process:
            reconstruction, kl = losses[0].tolist()
            training = Metrics(reconstruction, kl)
            record = measure_epoch(config, state, validation, noise, training, losses[1].item())
            keep_epoch(config, outputs, state, train, validation, record)
            for logger in loggers:
                logger.log({name: value for name, value in record.items() if name != "epoch"}, state.epoch)
        if config.patience:
            state.stopped = processes.any(state.stopped)
    if state.stopped:
        _print(processes, f"Stopped after epoch {state.epoch}: {config.patience} epochs had no lower validation loss.")


def _finish(
    config: FitConfig,
    outputs: Outputs,
    state: TrainingState,
    train: Dataset,
    validation: Dataset,
    test: Dataset,
    loggers: Sequence[Logger],
) -> FitResult:
    state.require_finite()
    model = state.load_kept()
    if kept := describe_kept(config, state.history):
        print(kept)
    seconds = math.inf if config.measure == "full" else max(MEASURE_LEAST_S, MEASURE_SHARE * state.seconds)
    figures = measure(model, train, test, importance_samples=IMPORTANCE_SAMPLES, seconds=seconds, progress=True)
    references = collect_references(model, train, progress=True)
    calibration = calibrate(model, validation.images, references=references, progress=True) if len(validation) else None
    out = outputs.checkpoint
    training = training_metadata(config, state, train)
    vae.save(out, model, training=training, metrics=figures, calibration=calibration, references=references)
    checkpoint = vae.load(out)
    written_files = str(out)
    if model.config.latent_map is None:
        latents = vae.LatentSet(latent_means(model, test.images).numpy(), test.labels.numpy())
        latents.save(out, checkpoint.sha256)
        written_files += f", {vae.LatentSet.path_beside(out)}"
    written = write_card(outputs.card, checkpoint)
    losses = Metrics(figures["test_reconstruction_loss"], figures["test_kl_divergence"])
    if less := left_out(figures, train, test):
        print(
            f"There were {seconds:.1f} s for the figures: {'; '.join(less)}. "
            "vae-train evaluate measures all of it, and so does --measure full."
        )
    print(f"test: {losses.describe()} (nats per image)")
    if config.out:
        card = f", and {outputs.card}" if written else f"; {outputs.card} is not vae-train's and was left as it is"
        print(f"Wrote {written_files}{card}.")
    for logger in loggers:
        logger.log(figures, state.epoch)
    return FitResult(checkpoint.model, checkpoint.metrics, state.history)


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


def _tensorboard(config: FitConfig, outputs: Outputs) -> list[Logger]:
    if not config.tensorboard:
        return []
    from training.fitting.tensorboard import TensorBoard  # noqa: PLC0415 - takes a fifth of a second

    return [TensorBoard(outputs.tensorboard)]


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
