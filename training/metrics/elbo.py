"""−ELBO of a model on a set of images, and its two terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from training.data.dataset import to_pixels
from training.metrics.posterior import BATCH, Posterior
from vae import VAE, kl_divergence
from vae.score import posterior_noise, sample_losses


@dataclass(frozen=True)
class Metrics:
    """Averages over images, in nats per image."""

    reconstruction_loss: float
    kl_divergence: float

    @property
    def neg_elbo(self) -> float:
        """−ELBO, the loss. For grey pixels as Bernoulli probabilities it bounds no negative log-density."""
        return self.reconstruction_loss + self.kl_divergence

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        """`{prefix}neg_elbo`, `{prefix}reconstruction_loss` and `{prefix}kl_divergence`."""
        return {
            f"{prefix}neg_elbo": self.neg_elbo,
            f"{prefix}reconstruction_loss": self.reconstruction_loss,
            f"{prefix}kl_divergence": self.kl_divergence,
        }

    def describe(self, name: str = "-ELBO") -> str:
        """Return all three as text; `name` is that of the sum."""
        return (
            f"{name} {self.neg_elbo:.2f} = reconstruction {self.reconstruction_loss:.2f} + KL {self.kl_divergence:.2f}"
        )


@torch.inference_mode()
def evaluate(
    model: VAE, images: Tensor, *, draws: int, seed: int, noise: Tensor | None = None, progress: bool = False
) -> Metrics:
    """Measure uint8 `images` (N, C, H, W), each decoded from `draws` posterior samples.

    The noise of an image is that of `vae.noise`: it depends on the seed and the image alone. `noise` (N, draws, …), if
    it is given, is this noise.
    """
    reconstruction = kl = 0.0
    device = model.mean_layer.weight.device
    starts = tqdm(range(0, len(images), BATCH), desc="evaluating", unit="batch", leave=False, disable=not progress)
    for start in starts:
        batch = images[start : start + BATCH]
        x = to_pixels(batch.to(device))
        mean, log_variance = model.encode(x)
        kl += kl_divergence(mean, log_variance).cpu().double().sum().item()
        own = posterior_noise(batch, mean, draws, seed) if noise is None else noise[start : start + BATCH].to(device)
        losses = sample_losses(model, x, mean, log_variance, own)
        reconstruction += losses.cpu().double().sum().item() / draws
    return Metrics(reconstruction / len(images), kl / len(images))


@torch.inference_mode()
def squared_error(model: VAE, images: Tensor) -> float:
    """Return the mean squared error per pixel and channel, in [0, 1], of images decoded from the means of q(z|x)."""
    device = model.mean_layer.weight.device
    total = 0.0
    for batch in images.split(BATCH):
        x = to_pixels(batch.to(device))
        image = model.to_image_(model.decode(model.encode(x)[0]))
        total += (image - x).square().flatten(1).mean(1).cpu().double().sum().item()
    return total / len(images)


def latent_means(model: VAE, images: Tensor) -> Tensor:
    """Return the means of q(z|x) for uint8 `images` (N, C, H, W): float32 (N, D) on the CPU; maps flattened."""
    return Posterior.of(model, images).mean
