"""Models that torch computes: checkpoints on any device, and folders of diffusers."""

from __future__ import annotations

import logging

import torch

from service.inference.torch_backend import TorchBackend, lay_out
from service.inference.torch_memory import measure_memory
from service.settings import Settings
from vae.arrays import CheckpointArrays
from vae.checkpoint import to_model
from vae.diffusion.loading import DiffusersCheckpoint, load_diffusers
from vae.metadata import CheckpointError

logger = logging.getLogger("vae-service")

INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
"""What processors that compute in a dtype have, by the names of `torch.cpu.get_capabilities`."""


def create_backend(stored: CheckpointArrays, settings: Settings) -> TorchBackend:
    """Create the model of a checkpoint on the device of `settings`; raises CheckpointError if that cannot be used."""
    _prepare(settings)
    return TorchBackend(to_model(stored).to(settings.device), settings.device)


def load_folder(settings: Settings) -> tuple[DiffusersCheckpoint, int, TorchBackend]:
    """Load a folder of diffusers; returns it with the number of its weights. Raises CheckpointError."""
    _prepare(settings)
    checkpoint = load_diffusers(settings.checkpoint, settings.device, settings.dtype)
    config = checkpoint.model.config
    if config.dtype != settings.dtype:
        logger.warning("%s computes in %s: its configuration has force_upcast.", checkpoint.name, config.dtype)
    _warn_if_slow(config.dtype, settings.device)
    parameters = sum(weights.numel() for weights in checkpoint.model.parameters())
    model, device = checkpoint.model, torch.device(settings.device)
    lay_out(model)
    memory = measure_memory(model, device, settings.compute_memory, settings.workers)
    return checkpoint, parameters, TorchBackend(model, device, memory)


def _warn_if_slow(dtype: str, device: str) -> None:
    """Log that the processor has no instructions for `dtype`, so that each number is converted to float32."""
    names = INSTRUCTIONS.get(dtype, ())
    if device == "cpu" and names and not any(map(torch.cpu.get_capabilities().get, names)):
        logger.warning("This processor has no instructions for %s: VAE_DTYPE float32 is probably faster.", dtype)


def _prepare(settings: Settings) -> None:
    torch.set_num_threads(settings.torch_threads)
    try:
        torch.empty(0, device=settings.device)
    except (AssertionError, RuntimeError) as error:  # which one depends on the device
        reason = str(error).partition(". ")[0].strip(".")
        raise CheckpointError(f"The device {settings.device} cannot be used: {reason}.") from error
