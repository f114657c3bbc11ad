"""The optimisers, which parameters each trains, and their learning rates."""

from __future__ import annotations

import math

import torch
from torch import nn

from training.config import FitConfig
from training.fitting.muon import Muon, fast_dtype
from vae import VAE

ADAM_RATE = 3e-3
"""Adam's learning rate where it trains convolutions or all of a network, unless --learning-rate is lower."""


def new_optimizers(config: FitConfig, model: VAE) -> list[torch.optim.Optimizer]:
    """Adam (Kingma & Ba 2015), followed by Muon if it is asked for and has a matrix to train.

    Muon suits matrices between wide layers: those with both sides above the latent dimension. Adam trains all other
    parameters.
    """
    matrices: dict[str, nn.Parameter] = {}
    adam_rate = config.learning_rate
    if config.optimizer == "muon":
        narrow = model.config.latent_dim
        matrices = {name: p for name, p in model.named_parameters() if p.ndim == 2 and min(p.shape) > narrow}
        limit = math.inf if matrices and model.config.architecture == "mlp" else ADAM_RATE
        adam_rate = config.adam_learning_rate or min(config.learning_rate, limit)
    others = [p for name, p in model.named_parameters() if name not in matrices]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(others, lr=adam_rate, fused=True)]
    if matrices:
        dtype = fast_dtype(model.mean_layer.weight.device)
        optimizers.append(Muon(matrices.values(), lr=config.learning_rate, dtype=dtype))
    for optimizer in optimizers:
        optimizer.param_groups[0]["initial_lr"] = optimizer.param_groups[0]["lr"]
    return optimizers


def describe_optimizers(config: FitConfig, optimizers: list[torch.optim.Optimizer]) -> str:
    """Learning rate after the warm-up and number of parameters of each of `new_optimizers`, as sentences."""
    sentences = []
    for optimizer in reversed(optimizers):
        group = optimizer.param_groups[0]
        name = optimizer.describe() if isinstance(optimizer, Muon) else "Adam"
        parameters = sum(parameter.numel() for parameter in group["params"])
        sentences.append(f"{name}: learning rate {group['initial_lr']:g}, {parameters:,} parameters.")
    if config.optimizer == "muon" and len(optimizers) == 1:
        sentences.insert(0, "Muon trains nothing: no matrix has both sides above --latent-dim.")
    return " ".join(sentences)


def warmup_steps(config: FitConfig, steps: int) -> int:
    """Steps of the warm-up in a training of `steps`: at most half of them."""
    return min(config.warmup_steps, steps // 2)


def describe_warmup(config: FitConfig, steps_per_epoch: int) -> str:
    """Which warm-ups are cut, as a sentence; empty if none is."""
    phases = {"the training": config.epochs, "the epochs of the encoder alone": config.encoder_epochs}
    cut = {name: warmup_steps(config, epochs * steps_per_epoch) for name, epochs in phases.items() if epochs}
    told = [f"{steps} steps, half of {name}" for name, steps in cut.items() if steps < config.warmup_steps]
    return f"The warm-up of {config.warmup_steps} steps is cut to {' and to '.join(told)}." if told else ""


def rate_factor(config: FitConfig, step: int, steps: int) -> float:
    """Share of the learning rate at step 0 ≤ `step` < `steps`, above 0 and at most 1.

    It rises linearly over the warm-up, then stays at 1 or falls along half a cosine to 0.
    """
    warmup = warmup_steps(config, steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.decay == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def set_learning_rates(
    optimizers: list[torch.optim.Optimizer], config: FitConfig, step: int, steps_per_epoch: int
) -> None:
    """Set those of a step counted from the first epoch; the epochs of the encoder alone begin with a warm-up anew."""
    joint = config.epochs * steps_per_epoch
    if step < joint:
        factor = rate_factor(config, step, joint)
    else:
        factor = rate_factor(config, step - joint, config.encoder_epochs * steps_per_epoch)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
