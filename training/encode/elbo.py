"""The ELBO of each image, estimated from draws of its posterior."""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch
from torch import Tensor

from vae import VAE, reconstruction_loss
from vae.model import reparameterize


def posterior_noise(draws: int, seed: int, latent_dim: int) -> Tensor:
    """Draw N(0, I), float32 (K, D): the same for every image, and the same as in the service for this seed.

    So the ELBO of an image does not depend on other images or on the batch size.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.standard_normal((draws, latent_dim), np.float32))


def estimate_elbo(
    model: VAE, pixels: Tensor, mean: Tensor, log_variance: Tensor, kl_divergence: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Estimate the ELBO of images.

    Args:
        model: Its decoder is called K times per image.
        pixels: Images (n, C, H, W) in [0, 1].
        mean: Means of q(z|x), (n, D).
        log_variance: Log-variances of q(z|x), (n, D).
        kl_divergence: KL divergence of q(z|x) from N(0, I), (n,), nats.
        noise: Noise of K ≥ 2 draws, (K, D).

    Returns:
        The ELBO and its standard error, float32 (n,) each, nats.

    """
    losses = [reconstruction_loss(model.decode(reparameterize(mean, log_variance, noise=row)), pixels) for row in noise]
    error, loss = torch.std_mean(torch.stack(losses).double(), 0)
    return -(loss + kl_divergence).float(), (error / sqrt(len(noise))).float()
