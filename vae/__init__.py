"""A variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114) as a leaf package: torch and safetensors alone."""

from vae.checkpoint import Checkpoint, CheckpointError, load, save
from vae.config import VAEConfig
from vae.latents import LatentSet
from vae.model import VAE
from vae.objective import elbo, kl_divergence, reconstruction_loss

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
