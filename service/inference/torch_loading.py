"""Models that torch computes: checkpoints on any device, and folders of diffusers."""

from __future__ import annotations

import torch

from service.inference.torch_backend import TorchBackend
from service.settings import Settings
from vae.arrays import CheckpointArrays
from vae.autoencoder_kl import DiffusersCheckpoint, load_diffusers
from vae.checkpoint import to_model
from vae.metadata import CheckpointError


def create_backend(stored: CheckpointArrays, settings: Settings) -> TorchBackend:
    """Create the model of a checkpoint on the device of `settings`; raises CheckpointError if that cannot be used."""
    _prepare(settings)
    return TorchBackend(to_model(stored).to(settings.device), settings.device)


def load_folder(settings: Settings) -> tuple[DiffusersCheckpoint, int, TorchBackend]:
    """Load a folder of diffusers; returns it with the number of its weights. Raises CheckpointError."""
    _prepare(settings)
    checkpoint = load_diffusers(settings.checkpoint, settings.device)
    parameters = sum(weights.numel() for weights in checkpoint.model.parameters())
    return checkpoint, parameters, TorchBackend(checkpoint.model, settings.device)


def _prepare(settings: Settings) -> None:
    torch.set_num_threads(settings.torch_threads)
    try:
        torch.empty(0, device=settings.device)
    except (AssertionError, RuntimeError) as error:  # which one depends on the device
        reason = str(error).partition(". ")[0].strip(".")
        raise CheckpointError(f"The device {settings.device} cannot be used: {reason}.") from error
