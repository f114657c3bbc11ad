"""The network before its training, and what of it is trained."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from training.config import FitConfig
from training.data import Dataset, to_pixels
from vae import VAE, VAEConfig, kl_divergence, reconstruction_loss
from vae.config import Architecture
from vae.model import reparameterize

MANY = 10_000
"""Images from which the mean image is taken."""


def new_model(config: FitConfig, train: Dataset) -> VAE:
    """A model for the images of `train`, its weights drawn by `config.seed`."""
    architecture = cast("Architecture", config.architecture)  # one of them: FitConfig has looked
    described = VAEConfig(architecture, train.image_shape, config.width, config.latent_dim, config.hidden_layers)
    with torch.random.fork_rng(devices=[]):  # torch's initialisers know the global generator alone
        torch.manual_seed(config.seed)
        model = VAE(described)
    last = model.decoder[-1]
    if config.output_bias and isinstance(last, nn.Linear | nn.Conv2d) and last.bias is not None:
        mean_image = to_pixels(train.images[:MANY]).mean(0)
        values = mean_image.flatten() if isinstance(last, nn.Linear) else mean_image.mean((1, 2))
        last.bias.data = torch.logit(values, eps=1e-4)
    return model


class Objective(nn.Module):
    """What is minimised, in its two parts; a module, so that it can be compiled and its gradients shared."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction loss and KL divergence, summed over images, in nats.

        `x` (N, C, H, W) in [0, 1] is to be reconstructed from `seen`, what the encoder is shown of it, and `noise`
        (N, D) ~ N(0, I).
        """
        mean, log_variance = self.model.encode(seen)
        logits = self.model.decode(reparameterize(mean, log_variance, noise=noise))
        return reconstruction_loss(logits, x).sum(), kl_divergence(mean, log_variance).sum()
