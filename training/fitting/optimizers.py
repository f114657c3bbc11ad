"""The optimizers, the parameters that each of them trains, and their learning rates."""

from __future__ import annotations

import math

import torch
from torch import nn

from training.config.fit_config import FitConfig
from training.config.options import ConfigError
from training.fitting.muon import Muon, fast_dtype
from vae import VAE, VAEConfig

ADAM_RATE = 3e-3
"""Adam's learning rate for convolutions, or for a network without Muon, unless --learning-rate is lower."""


def new_optimizers(config: FitConfig, model: VAE) -> list[torch.optim.Optimizer]:
    """Create Adam (Kingma & Ba 2015) and, if it is chosen and has a matrix to train, Muon.

    Muon trains the matrices between wide layers, both sides above the latent dimension, and the convolutions of a
    resnet, without the heads and those of the image's channels. Adam trains all other parameters.
    """
    matrices: dict[str, nn.Parameter] = {}
    adam_rate = config.learning_rate
    if config.optimizer == "muon":
        matrices = {name: p for name, p in model.named_parameters() if _is_wide(name, p, model.config)}
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


def require_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError if `precision` is bf16 and `device` has no instructions for bfloat16."""
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        has_bfloat16 = fast_dtype(device) == torch.bfloat16
    else:
        has_bfloat16 = torch.amp.is_autocast_available(device.type)
    if precision == "bf16" and not has_bfloat16:
        raise ConfigError(
            f"--precision bf16: {device} does not compute in bfloat16 or only emulates it, slowly; give --precision "
            "float32."
        )


def _is_wide(name: str, parameter: nn.Parameter, config: VAEConfig) -> bool:
    """Return whether Muon trains `parameter`."""
    if parameter.ndim == 4:
        is_head = name.startswith(("mean_layer.", "log_variance_layer."))
        return config.architecture == "resnet" and not is_head and min(parameter.shape[:2]) > config.image_shape[0]
    return parameter.ndim == 2 and min(parameter.shape) > config.latent_dim


def describe_optimizers(config: FitConfig, optimizers: list[torch.optim.Optimizer]) -> str:
    """Describe the learning rate after the warm-up and the number of parameters of each optimizer."""
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
    """Return the warm-up steps of a training of `steps` steps: at most half of them."""
    return min(config.warmup_steps, steps // 2)


def describe_warmup(config: FitConfig, steps_per_epoch: int) -> str:
    """Describe which warm-ups are shortened; empty if none is."""
    phases = {"the training": config.epochs, "the epochs of the encoder alone": config.encoder_epochs}
    cut = {name: warmup_steps(config, epochs * steps_per_epoch) for name, epochs in phases.items() if epochs}
    shortened = [f"{steps} steps, half of {name}" for name, steps in cut.items() if steps < config.warmup_steps]
    return f"The warm-up of {config.warmup_steps} steps is cut to {' and to '.join(shortened)}." if shortened else ""


def rate_factor(config: FitConfig, step: int, steps: int) -> float:
    """Return the factor of the learning rate, in (0, 1], at `step` of `steps`.

    It rises linearly during the warm-up, then stays at 1 or falls to 0 along half a cosine.
    """
    warmup = warmup_steps(config, steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.lr_schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def set_learning_rates(
    optimizers: list[torch.optim.Optimizer], config: FitConfig, step: int, steps_per_epoch: int
) -> None:
    """Set the learning rates of `step`, counted from the first epoch; encoder epochs have a warm-up of their own."""
    joint = config.epochs * steps_per_epoch
    if step < joint:
        factor = rate_factor(config, step, joint)
    else:
        factor = rate_factor(config, step - joint, config.encoder_epochs * steps_per_epoch)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
