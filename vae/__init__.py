"""A variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114) as a leaf package: torch and safetensors alone.

torch is imported with the first of these names that is asked for: who wants `vae.config` alone does without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae.checkpoint import Checkpoint, load, save
    from vae.config import VAEConfig
    from vae.latents import LatentSet
    from vae.model import VAE
    from vae.objective import elbo, kl_divergence, reconstruction_loss
    from vae.metadata import CheckpointError

__all__ = [
    "VAE",
    "Checkpoint",
    "CheckpointError",
    "LatentSet",
    "VAEConfig",
    "elbo",
    "kl_divergence",
    "load",
    "reconstruction_loss",
    "save",
]

_MODULES = {
    "checkpoint": ("Checkpoint", "load", "save"),
    "config": ("VAEConfig",),
    "latents": ("LatentSet",),
    "model": ("VAE",),
    "objective": ("elbo", "kl_divergence", "reconstruction_loss"),
    "metadata": ("CheckpointError",),
}


def __getattr__(name: str) -> Any:
    """PEP 562."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"vae.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
