"""An exponential moving average of the weights, which varies less from step to step than the weights themselves."""

from __future__ import annotations

import copy

from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.fitting.state import TrainingState
from vae import VAE


def new_average(model: VAE) -> VAE:
    """Return a copy of `model` for its averaged weights."""
    return copy.deepcopy(model).requires_grad_(False)


def update_average(state: TrainingState, decay: float) -> None:
    """Move `state.average` towards the current weights: by 1 − `decay` of the distance, by more in the first steps.

    The decay at step t is min(decay, (1 + t)/(10 + t)), as in TensorFlow's ExponentialMovingAverage: a short training
    would otherwise end with an average over its initial weights.
    """
    if state.average is None:
        return
    steps = state.averaged_steps
    update = get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))
    update(list(state.average.parameters()), list(state.model.parameters()), steps)
    state.averaged_steps += 1
