"""The network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vae.architectures import ARCHITECTURES
from vae.config import VAEConfig
from vae.objective import reconstruction_loss


class VAE(nn.Module):
    """Encoder x → q(z|x) = N(mean, exp(log_variance)) and decoder z → logits of p(x|z).

    Parameter names are those of the article's state_dict, so its checkpoints load as they are.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, features, self.decoder = ARCHITECTURES[config.architecture](config)
        self.mean_layer = nn.Linear(features, config.latent_dim)
        self.log_variance_layer = nn.Linear(features, config.latent_dim)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [0, 1] → mean and log-variance of q(z|x), (N, D) each."""
        hidden = self.encoder(x.flatten(1))
        return self.mean_layer(hidden), self.log_variance_layer(hidden)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, D) → logits (N, C, H, W); their sigmoid is the image in [0, 1]."""
        logits: Tensor = self.decoder(z)
        return logits.reshape(-1, *self.config.image_shape)

    def decode_raw(self, z: Tensor) -> Tensor:
        """Latents (N, D) → images (N, C, H, W) in [-1, 1], as diffusers has them."""
        return self.to_image_(self.decode(z)) * 2 - 1

    def to_image_(self, decoded: Tensor) -> Tensor:
        """Logits, which `decode` gave → their image in [0, 1], in place.

        torch's own sigmoid takes another formula, whose last bits differ, where a tensor or a thread's share ends.
        """
        return decoded.neg_().exp_().add_(1).reciprocal_()

    def reconstruction_loss(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Binary cross-entropy of images `x` (N, C, H, W) under what `decode` gave, summed over pixels; (N,), nats."""
        return reconstruction_loss(decoded, x)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, C, H, W) in [0, 1] → logits of one posterior sample's image, mean, log-variance."""
        mean, log_variance = self.encode(x)
        return self.decode(reparameterize(mean, log_variance, generator=generator)), mean, log_variance


def reparameterize(
    mean: Tensor, log_variance: Tensor, *, generator: torch.Generator | None = None, noise: Tensor | None = None
) -> Tensor:
    """z = mean + ε·exp(½·log_variance), (N, D); ε ~ N(0, I) is `noise` where given, else drawn from `generator`."""
    if noise is None:
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + noise * torch.exp(0.5 * log_variance)
