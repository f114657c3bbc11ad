"""The importance-weighted bound on log p(x) (Burda et al. 2016, arXiv:1509.00519)."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor
from torch.nn.functional import softplus
from tqdm import tqdm

from training.data.dataset import to_pixels
from vae import VAE
from vae.likelihoods import Bernoulli
from vae.score import posterior_noise

SAMPLES = 5000
"""K, as in Burda et al."""
ROWS = 1000
"""Latents decoded at a time; they fit into one core's cache."""


@torch.inference_mode()
def importance_weighted_bound(model: VAE, images: Tensor, samples: int, seed: int, *, progress: bool = False) -> Tensor:
    """Compute log of the mean of `samples` weights p(x, z)/q(z|x), z ~ q(z|x), of uint8 `images`: float64 (N,), nats.

    It is a lower bound on log p(x) that gets tighter with more samples. The model's likelihood defines p(x|z); the
    Bernoulli one is not a normalised density of grey pixels. The noise of an image is that of `vae.noise`.
    """
    device = model.mean_layer.weight.device
    bounds = torch.empty(len(images), dtype=torch.float64)
    rows = max(1, ROWS // samples)
    with tqdm(
        total=len(images),
        desc="importance weights",
        unit=" images",
        leave=False,
        mininterval=0.2 if sys.stderr.isatty() else 10,  # seconds; keep log files short
        disable=not progress,
    ) as bar:
        for block, part in zip(images.split(rows), bounds.split(rows), strict=True):
            x = to_pixels(block.to(device))
            mean, log_variance = model.encode(x)
            log_sum = torch.full((len(x),), -math.inf, dtype=torch.float64)
            for noise in posterior_noise(block, mean, samples, seed).split(ROWS, 1):
                log_weights = _log_weights(model, x, mean, log_variance, noise).cpu().double()
                log_sum = torch.logaddexp(log_sum, log_weights.logsumexp(1))
            part.copy_(log_sum - math.log(samples))  # many small tensors would fragment the heap
            bar.update(len(x))
    return bounds


def _log_weights(model: VAE, x: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Compute `vae.objective.log_importance_weight` of images x (N, C, H, W) for K latents each: (N, K).

    noise is (N, K, …).
    """
    images, samples = noise.shape[:2]
    z = mean.unsqueeze(1) + noise * torch.exp(0.5 * log_variance).unsqueeze(1)
    decoded = model.decode(z.flatten(0, 1))
    if isinstance(model.likelihood, Bernoulli):
        # log p(x|z) = x·l − Σ softplus(l) for logits l, so one matrix product suffices
        logits = decoded.view(images, samples, -1)
        log_likelihood = (logits @ x.flatten(1).unsqueeze(2)).squeeze(2) - softplus(logits).sum(2)
    else:
        repeated = x.repeat_interleave(samples, 0)
        log_likelihood = -model.reconstruction_loss(decoded, repeated).view(images, samples)
    log_prior_over_posterior = 0.5 * (noise.square() + log_variance.unsqueeze(1) - z.square()).flatten(2).sum(2)
    return log_likelihood + log_prior_over_posterior
