"""A variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114). Imports torch, NumPy and safetensors only.

Importing `vae` does not import torch; the first use of a name below that needs torch does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae.calibration import Calibration
    from vae.checkpoint import Checkpoint, load, save
    from vae.config import VAEConfig
    from vae.latents import LatentSet
    from vae.metadata import CheckpointError
    from vae.model import VAE
    from vae.objective import elbo, kl_divergence, reconstruction_loss
    from vae.outliers import References
    from vae.score import Scores

__all__ = [
    "VAE",
    "Calibration",
    "Checkpoint",
    "CheckpointError",
    "LatentSet",
    "References",
    "Scores",
    "VAEConfig",
    "elbo",
    "kl_divergence",
    "load",
    "reconstruction_loss",
    "save",
]

_MODULES = {
    "calibration": ("Calibration",),
    "checkpoint": ("Checkpoint", "load", "save"),
    "config": ("VAEConfig",),
    "latents": ("LatentSet",),
    "metadata": ("CheckpointError",),
    "model": ("VAE",),
    "objective": ("elbo", "kl_divergence", "reconstruction_loss"),
    "outliers": ("References",),
    "score": ("Scores",),
}


def __getattr__(name: str) -> Any:
    """Import the module that defines `name` (PEP 562)."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"vae.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
