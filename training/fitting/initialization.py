"""The network before its training, and what of it is trained."""

from __future__ import annotations

import os
from typing import cast

import torch
from torch import Tensor, nn

from training.config import ConfigError, FitConfig
from training.data.dataset import Dataset, to_pixels
from vae import VAE, VAEConfig, kl_divergence, reconstruction_loss
from vae.config import Architecture
from vae.model import reparameterize

MANY = 10_000
"""Images from which the mean image is taken."""


def describe(config: FitConfig, image_shape: tuple[int, int, int]) -> VAEConfig:
    """The network that `config` asks for."""
    architecture = cast("Architecture", config.architecture)  # one of them: FitConfig has looked
    return VAEConfig(architecture, image_shape, config.width, config.latent_dim, config.hidden_layers)


def require_memory(config: FitConfig, image_shape: tuple[int, int, int], device: torch.device) -> None:
    """Raise ConfigError where the memory of `device` cannot hold the network that `config` asks for, and its training.

    Counted are weights, gradients and two moments of each, and the latents of a batch, in float32.
    """
    try:
        with torch.device("meta"):
            parameters = sum(each.numel() for each in VAE(describe(config, image_shape)).parameters())
    except (RuntimeError, TypeError):  # a size above what torch can write down
        parameters = 2**63
    wanted = 4 * (4 * parameters + config.batch_size * config.latent_dim)
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[1]
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if wanted > memory:
        raise ConfigError(
            f"A network of --latent-dim {config.latent_dim} and --hidden-dim {config.width} takes at least "
            f"{wanted / 2**30:,.0f} GiB of memory to train; {device} has {memory / 2**30:,.0f}: lower one of them."
        )


def new_model(config: FitConfig, train: Dataset) -> VAE:
    """A model for the images of `train`, its weights drawn by `config.seed`."""
    with torch.random.fork_rng(devices=[]):  # torch's initialisers know the global generator alone
        torch.manual_seed(config.seed)
        model = VAE(describe(config, train.image_shape))
    last = model.decoder[-1]
    if config.output_bias and isinstance(last, nn.Linear | nn.Conv2d) and last.bias is not None:
        mean_image = to_pixels(train.images[:MANY]).mean(0)
        values = mean_image.flatten() if isinstance(last, nn.Linear) else mean_image.mean((1, 2))
        last.bias.data = torch.logit(values, eps=1e-4)
    return model


class VAELoss(nn.Module):
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
