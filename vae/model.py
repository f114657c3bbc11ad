"""The model: a configuration, and the network that it describes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Architecture = Literal["mlp"]


@dataclass(frozen=True)
class VAEConfig:
    """What it takes to build a VAE. The defaults are the article's: MNIST in three latent dimensions.

    Raises ValueError, with a sentence that names the field, where a value cannot describe a network.
    """

    architecture: Architecture = "mlp"
    image_shape: tuple[int, int, int] = (1, 28, 28)
    """C×H×W; C is 1 (grey) or 3 (RGB)."""
    hidden_dim: int = 392
    latent_dim: int = 3
    negative_slope: float = 0.3
    """Slope of the leaky ReLU (Maas et al. 2013) below zero."""

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            known = ", ".join(get_args(Architecture))
            raise ValueError(f"architecture is {self.architecture!r}; it must be one of: {known}.")
        shape = self.image_shape
        if len(shape) != 3 or any(type(size) is not int or size < 1 for size in shape) or shape[0] not in (1, 3):
            raise ValueError(f"image_shape is {shape!r}; it must be (C, H, W), positive, with C 1 or 3.")
        for name in ("hidden_dim", "latent_dim"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a positive integer.")
        if not isinstance(self.negative_slope, float) or not 0 <= self.negative_slope <= 1:
            raise ValueError(f"negative_slope is {self.negative_slope!r}; it must be a number from 0 to 1.")

    @property
    def pixels(self) -> int:
        """Values in one image: C·H·W."""
        return prod(self.image_shape)


class VAE(nn.Module):
    """Encoder x → q(z|x) = N(mean, exp(log_variance)) and decoder z → logits of p(x|z).

    Parameter names are those of the article's state_dict, so its checkpoints load as they are.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        pixels, hidden, latent = config.pixels, config.hidden_dim, config.latent_dim
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden),
            nn.LeakyReLU(config.negative_slope),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(config.negative_slope),
        )
        self.mean_layer = nn.Linear(hidden, latent)
        self.log_variance_layer = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.LeakyReLU(config.negative_slope),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(config.negative_slope),
            nn.Linear(hidden, pixels),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [0, 1] → mean and log-variance of q(z|x), (N, D) each."""
        hidden = self.encoder(x.flatten(1))
        return self.mean_layer(hidden), self.log_variance_layer(hidden)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, D) → logits (N, C, H, W); their sigmoid is the image in [0, 1]."""
        logits: Tensor = self.decoder(z)
        return logits.view(-1, *self.config.image_shape)

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
