"""Posteriors of a set of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.dataset import to_pixels
from vae import VAE, kl_divergence

BATCH = 1000
"""Images encoded at a time."""
ACTIVE_ABOVE = 0.01
"""Variance of the posterior mean above which a latent dimension is active (Burda et al. 2016, section 5.2)."""


@dataclass(frozen=True)
class Posterior:
    """q(z|x) of N images: means and log-variances, (N, D) float32 each, on the CPU; maps as vectors of C'·h·w."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    @torch.inference_mode()
    def of(cls, model: VAE, images: Tensor) -> Posterior:
        """Encode uint8 `images` (N, C, H, W)."""
        device = model.mean_layer.weight.device
        encoded = [model.encode(to_pixels(batch.to(device))) for batch in images.split(BATCH)]
        means, log_variances = zip(*encoded, strict=True)
        return cls(torch.cat(means).flatten(1).cpu(), torch.cat(log_variances).flatten(1).cpu())

    def kl_per_dimension(self) -> Tensor:
        """Return the KL divergence of each dimension to N(0, 1), averaged over the images: float64 (D,), nats."""
        columns = (values.double().reshape(-1, 1) for values in (self.mean, self.log_variance))
        return kl_divergence(*columns).view(self.mean.shape).mean(0)

    def active_units(self) -> int:
        """Count the dimensions whose posterior mean has a variance over the images above ACTIVE_ABOVE."""
        return int((self.mean.double().var(0, correction=0) > ACTIVE_ABOVE).sum())
