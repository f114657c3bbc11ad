"""The model before training, and its loss."""

from __future__ import annotations

import math
import os
from typing import cast

import torch
from torch import Tensor, nn

from training.config.fit_config import FitConfig
from training.config.options import ConfigError
from training.data.dataset import Dataset, to_pixels
from vae import VAE, VAEConfig, kl_divergence
from vae.config import Architecture, Likelihood, Scale
from vae.model import reparameterize
from vae.modules import ResidualBlock
from vae.objective import log_importance_weight

MEAN_IMAGES = 10_000
"""Images used for the mean image that initialises the output bias, and for the initial scale."""


def describe(config: FitConfig, image_shape: tuple[int, int, int]) -> VAEConfig:
    """Return the network configuration that `config` describes; raises ConfigError if no network has these sizes."""
    architecture = cast("Architecture", config.architecture)  # FitConfig has checked this, likelihood and scale
    try:
        return VAEConfig(
            architecture,
            image_shape,
            config.width,
            config.latent_dim,
            config.depth,
            latent_map=config.latent_shape,
            likelihood=cast("Likelihood", config.likelihood),
            scale=cast("Scale", config.scale),
        )
    except ValueError as error:
        raise ConfigError(f"--latent-shape cannot be used: {error}") from error


def require_memory(config: FitConfig, image_shape: tuple[int, int, int], device: torch.device) -> None:
    """Raise ConfigError if the network and its training do not fit into the memory of `device`.

    Counts weights, gradients, two moments of each and the latents of a batch, in float32.
    """
    network = describe(config, image_shape)
    try:
        with torch.device("meta"):
            parameters = sum(each.numel() for each in VAE(network).parameters())
    except (RuntimeError, TypeError):  # a size beyond int64
        parameters = 2**63
    expected = 4 * (4 * parameters + config.batch_size * network.latent_dim)
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[1]
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if expected > memory:
        raise ConfigError(
            f"A network of --latent-dim {network.latent_dim} and --hidden-dim {config.width} takes at least "
            f"{expected / 2**30:,.0f} GiB of memory to train; {device} has {memory / 2**30:,.0f}: lower one of them."
        )


def new_model(config: FitConfig, train: Dataset) -> VAE:
    """Create a model for the images of `train` with weights drawn from `config.seed`."""
    with torch.random.fork_rng(devices=[]):  # torch's initialisers use the global generator
        torch.manual_seed(config.seed)
        model = VAE(describe(config, train.image_shape))
    for block in model.modules():
        if isinstance(block, ResidualBlock):  # it begins as the identity, as by Goyal et al. 2017, arXiv:1706.02677
            for parameter in block[-1].parameters():
                nn.init.zeros_(parameter)
    last = model.decoder[-1]
    if config.init_output_bias and isinstance(last, nn.Linear | nn.Conv2d) and last.bias is not None:
        x = to_pixels(train.images[:MEAN_IMAGES])
        mean_image = x.mean(0)
        values = mean_image.flatten() if isinstance(last, nn.Linear) else mean_image.mean((1, 2))
        model.likelihood.initialize_(last.bias.data, values, (x - mean_image).square().mean().sqrt().item())
    return model


class VAELoss(nn.Module):
    """The terms of the loss, as a module, so that torch can compile it and average its gradients over processes.

    Args:
        model: The model.
        precision: `bf16` computes the networks in bfloat16; all else is float32.
        importance_weighted: Whether to compute the importance-weighted bound.

    """

    def __init__(self, model: VAE, precision: str = "float32", *, importance_weighted: bool = False) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.importance_weighted = importance_weighted

    def forward(self, x: Tensor, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the terms of the loss, summed over images, in nats.

        Args:
            x: Images to reconstruct, (N, C, H, W) in [0, 1].
            seen: Input of the encoder: `x` after dropout, same shape.
            noise: Draws of N(0, I), (N, K, *latent_shape) for K posterior samples of each image.

        Returns:
            The reconstruction loss (), averaged over the K samples; the KL divergence of each latent dimension (D,);
            −1 times the importance-weighted bound (), whose gradient is that of the log of the mean of K weights
            (Burda et al. 2016, arXiv:1509.00519), or 0 without it.

        """
        with self._autocast(x):
            mean, log_variance = (each.float() for each in self.model.encode(seen))
        kl = kl_divergence(mean.flatten(1).T, log_variance.flatten(1).T)
        samples = noise.shape[1]
        if samples > 1:
            x, mean, log_variance = (each.repeat_interleave(samples, 0) for each in (x, mean, log_variance))
        z = reparameterize(mean, log_variance, noise=noise.flatten(0, 1))
        with self._autocast(x):
            decoded = self.model.decode(z).float()
        if not self.importance_weighted:
            return self.model.reconstruction_loss(decoded, x).sum() / samples, kl, kl.new_zeros(())
        log_weights = log_importance_weight(decoded, x, z, mean, log_variance, self.model.likelihood).view(-1, samples)
        bound = log_weights.logsumexp(1) - math.log(samples)
        neg_elbo = -log_weights.detach().mean(1)  # unbiased, as the mean of any log weight is the ELBO
        return neg_elbo.sum() - kl.sum(), kl, -bound.sum()

    def _autocast(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16")
