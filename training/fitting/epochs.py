"""What happens after an epoch: its losses are measured, and its weights kept if they are the best."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import vae
from training.config.fit_config import FitConfig
from training.data.dataset import Dataset
from training.fitting.model_card import remove_card
from training.fitting.outputs import Outputs
from training.fitting.selection import is_stalled, kept_epoch
from training.fitting.state import TrainingError, TrainingState
from training.metrics.elbo import Metrics, evaluate
from training.metrics.importance import importance_weighted_bound
from vae.files import write_atomically
from vae.noise import SEED


def measure_epoch(
    config: FitConfig,
    state: TrainingState,
    validation: Dataset,
    noise: Tensor,
    training: Metrics,
    training_loss: float,
) -> dict[str, float]:
    """Measure the validation images; return the losses of the epoch."""
    state.require_finite()
    figures = {"train": training}
    bounds = {"train": training_loss} if config.importance_samples > 1 else {}
    if len(validation):
        figures["validation"] = evaluate(state.evaluated, validation.images, draws=1, seed=SEED, noise=noise)
    if bounds and len(validation):
        bound = importance_weighted_bound(state.evaluated, validation.images, config.importance_samples, SEED)
        bounds["validation"] = -bound.mean().item()
    record: dict[str, float] = {"epoch": state.epoch, "seconds": round(state.seconds, 2)}
    record["learning_rate"] = state.optimizers[-1].param_groups[0]["lr"]  # of the last step
    for part, figure in figures.items():
        record |= figure.as_dict(f"{part}_")
    record |= {f"{part}_neg_importance_weighted_bound": bound for part, bound in bounds.items()}
    if not all(map(math.isfinite, record.values())):
        raise TrainingError(f"The validation loss is not finite in epoch {state.epoch}: lower --learning-rate.")
    words = "   ".join(f"{part}: {figure.describe()}" for part, figure in figures.items())
    tqdm.write(f"epoch {state.epoch}/{config.all_epochs}   {words}   {state.seconds:.1f} s", file=sys.stdout)
    return record


def keep_epoch(
    config: FitConfig,
    outputs: Outputs,
    state: TrainingState,
    train: Dataset,
    validation: Dataset,
    record: dict[str, float],
) -> None:
    """Write the history and, if this epoch is the one to keep, the checkpoint."""
    out = outputs.checkpoint
    state.history.append(record)
    state.stopped = is_stalled(config, state.history)
    if kept_epoch(config, state.history) is record:
        vae.LatentSet.path_beside(out).unlink(missing_ok=True)  # they belong to the previous checkpoint
        remove_card(outputs.card)
        if config.keep == "best" and len(validation):
            state.best = {name: tensor.clone() for name, tensor in state.evaluated.state_dict().items()}
        vae.save(out, state.evaluated, training=training_metadata(config, state, train), metrics={})
    write_atomically(outputs.history, "".join(json.dumps(line) + "\n" for line in state.history).encode())


def training_metadata(config: FitConfig, state: TrainingState, train: Dataset) -> dict[str, Any]:
    """Return the checkpoint's `training` metadata."""
    return config.to_metadata() | {
        "data": state.data,
        "classes": train.classes,
        "training_images": len(train),
        "pictures": {"fit": config.fit},
        "epochs_finished": state.epoch,
        "seconds": round(state.seconds, 2),
        "torch": torch.__version__,
        "last_epoch": state.history[-1],
        "kept_epoch": kept_epoch(config, state.history),
        "started_from": state.started_from,
    }
