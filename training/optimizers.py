"""The optimisers and their learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from training.config import FitConfig
from vae import VAE


def new_optimizers(config: FitConfig, model: VAE) -> list[torch.optim.Optimizer]:
    """Adam (Kingma & Ba 2015), beside Muon where asked for; their learning rates are set at each step.

    Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix. It suits those between wide layers; scaled to
    the step size of Adam, it shares Adam's learning rate (Liu et al. 2025, arXiv:2502.16982).
    """
    narrow = model.config.latent_dim
    matrices: dict[str, nn.Parameter] = {}
    if config.optimizer == "muon":
        matrices = {name: p for name, p in model.named_parameters() if p.ndim == 2 and min(p.shape) > narrow}
    others = [p for name, p in model.named_parameters() if name not in matrices]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(others, fused=True)]
    if matrices:
        muon = torch.optim.Muon(matrices.values(), weight_decay=0, ns_steps=3, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)  # 3 Newton-Schulz steps: measured no worse than the usual 5, and faster
    return optimizers


def learning_rate(config: FitConfig, step: int, steps: int) -> float:
    """Of step 0 ≤ `step` < `steps`: a linear rise over the warm-up, then constant or half a cosine down to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / (steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def learning_rate_of(config: FitConfig, step: int, steps_per_epoch: int) -> float:
    """Of a step counted from the first epoch; the epochs of the encoder alone begin with a warm-up of their own."""
    joint = config.epochs * steps_per_epoch
    if step < joint:
        return learning_rate(config, step, joint)
    return learning_rate(config, step - joint, config.encoder_epochs * steps_per_epoch)
