"""The ELBO of each image, as a mean over draws of its posterior."""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch
from torch import Tensor

from vae import VAE, reconstruction_loss
from vae.model import reparameterize


def posterior_noise(draws: int, seed: int, latent_dim: int) -> Tensor:
    """N(0, I), (K, D) float32: that of the service for the same seed, and the same for every image.

    So an image's ELBO depends on no other image, nor on how the images are cut into batches.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.standard_normal((draws, latent_dim), np.float32))


def estimate_elbo(
    model: VAE, pixels: Tensor, mean: Tensor, log_variance: Tensor, kl_divergence: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """The ELBO of `pixels` (n, C, H, W) in [0, 1] and its standard error, (n,) float32 each, nats.

    Args:
        model: Decodes K latents of each image.
        pixels: What the losses are of.
        mean: Of q(z|x), (n, D).
        log_variance: Of q(z|x), (n, D).
        kl_divergence: Of q(z|x) from N(0, I), (n,), nats.
        noise: Of the K ≥ 2 draws, (K, D).

    """
    losses = [reconstruction_loss(model.decode(reparameterize(mean, log_variance, noise=row)), pixels) for row in noise]
    error, loss = torch.std_mean(torch.stack(losses).double(), 0)
    return -(loss + kl_divergence).float(), (error / sqrt(len(noise))).float()
