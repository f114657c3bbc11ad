"""Which epoch of a training is kept, and when the training stops early."""

from __future__ import annotations

from training.config.fit_config import FitConfig

Record = dict[str, float]
"""Metrics of an epoch, as in the history."""


def validation_loss(config: FitConfig, record: Record) -> float:
    """Return the loss of the validation images in nats: the loss that is minimised, without free bits and warm-up.

    This is −ELBO unless --beta or --importance-samples says otherwise.
    """
    if config.importance_samples > 1:
        return record["validation_neg_importance_weighted_bound"]
    return record["validation_reconstruction_loss"] + config.beta * record["validation_kl_divergence"]


def best_epoch(config: FitConfig, history: list[Record]) -> Record | None:
    """Return the first epoch with the lowest validation loss; None if no images are held out."""
    if "validation_neg_elbo" not in history[-1]:
        return None
    return min(history, key=lambda record: validation_loss(config, record))


def kept_epoch(config: FitConfig, history: list[Record]) -> Record:
    """Return the epoch whose weights the checkpoint has: the best, or the last with --keep last or without a best."""
    best = best_epoch(config, history) if config.keep == "best" else None
    return best or history[-1]


def is_stalled(config: FitConfig, history: list[Record]) -> bool:
    """Return whether the last --patience epochs have had no lower validation loss than an epoch before them."""
    best = best_epoch(config, history)
    return best is not None and 0 < config.patience <= history[-1]["epoch"] - best["epoch"]


def describe_kept(config: FitConfig, history: list[Record]) -> str:
    """Describe the epoch that is kept and its validation loss; empty if the validation loss does not decide."""
    best = best_epoch(config, history) if config.keep == "best" else None
    if best is None:
        return ""
    loss = validation_loss(config, best)
    return f"Kept epoch {best['epoch']} of {len(history)}, with the lowest validation loss, {loss:.2f}."
