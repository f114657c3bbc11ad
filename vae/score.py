"""How unusual images are for a model: estimates of their ELBO and of log p(x), its terms, and outlier factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from vae.noise import DRAWS, SEED, image_noise
from vae.objective import kl_divergence
from vae.outliers import References

NOISE_LIMIT = 2**24
"""Most numbers of noise at a time, 64 MiB; more images are scored in parts."""


class Model(Protocol):
    """What a score needs of a model."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x) of images (N, C, H, W), (N, …) each."""

    def decode(self, z: Tensor) -> Tensor:
        """The parameters of p(x|z) of latents (N, …)."""

    def reconstruction_loss(self, decoded: Tensor, x: Tensor) -> Tensor:
        """−log p(x|z), (N,), nats, of images given the output of `decode`."""


@dataclass(frozen=True)
class Scores:
    """Scores of N images, (N,) each, in nats but for the outlier factor.

    An unusual image has a low `elbo` and bound, high losses, and a high outlier factor.
    """

    elbo: Tensor
    """Evidence lower bound: the mean over the draws of the posterior, with the exact KL divergence."""
    elbo_standard_error: Tensor
    """Of `elbo`, over the draws."""
    reconstruction_loss: Tensor
    """−log p(x|z) at the posterior's mean z."""
    kl_divergence: Tensor
    """Of the posterior from N(0, I), exact."""
    importance_weighted_bound: Tensor | None = None
    """A lower bound of log p(x) that is tighter than the ELBO (Burda et al. 2016); None without samples."""
    outlier_factor: Tensor | None = None
    """Distance of the posterior's mean to its nearest references, against theirs (see `vae.References`); None without
    references."""

    def as_dict(self) -> dict[str, Tensor]:
        """Return the scores by their names, without those that are None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@torch.no_grad()
def score(
    model: Model,
    x: Tensor,
    *,
    draws: int = DRAWS,
    samples: int = 0,
    seed: int = SEED,
    references: References | None = None,
) -> Scores:
    """Score images.

    The scores of an image depend on no other one, apart from rounding: its noise is that of `vae.noise`.

    Args:
        model: A VAE or an autoencoder of diffusers; its decoder is called max(draws, samples) + 1 times per image.
        x: Images (N, C, H, W) in [0, 1].
        draws: Posterior samples per image of the ELBO, 2 or more.
        samples: Importance samples per image, of which the first are the draws; 0 leaves out the bound.
        seed: Seed of the samples, from 0 to 2⁶⁴ − 1.
        references: What outlier factors are computed from; None leaves them out.

    Returns:
        The scores, on the device of `x`.

    Raises:
        ValueError: `draws` or `samples` is out of range.

    """
    if draws < 2 or samples < 0:
        raise ValueError(f"draws is {draws} and samples {samples}; they must be at least 2 and 0.")
    mean, log_variance = model.encode(x)
    kl = kl_divergence(mean, log_variance)
    count = max(draws, samples)
    parts = []
    size = max(1, NOISE_LIMIT // (count * mean[:1].numel()))
    for own, own_mean, own_log_variance in zip(*(each.split(size) for each in (x, mean, log_variance)), strict=True):
        noise = posterior_noise(own, own_mean, count, seed)
        losses = sample_losses(model, own, own_mean, own_log_variance, noise)
        parts.append((losses, log_ratios(own_mean, own_log_variance, noise[:, :samples])))
    losses, ratios = (torch.cat(each, 1).double() for each in zip(*parts, strict=True))
    error, loss = torch.std_mean(losses[:draws], 0)
    bound = (ratios - losses[:samples]).logsumexp(0) - math.log(samples) if samples else None
    factor = torch.from_numpy(references.outlier_factor(mean.float().cpu().numpy())).to(x) if references else None
    return Scores(
        elbo=-(loss + kl).float(),
        elbo_standard_error=(error / math.sqrt(draws)).float(),
        reconstruction_loss=model.reconstruction_loss(model.decode(mean), x),
        kl_divergence=kl,
        importance_weighted_bound=None if bound is None else bound.float(),
        outlier_factor=factor,
    )


def posterior_noise(x: Tensor, mean: Tensor, samples: int, seed: int) -> Tensor:
    """Return `vae.noise.image_noise` (N, K, …) of images `x` for their posteriors, on the device of `mean` (N, …)."""
    return torch.from_numpy(image_noise(x.cpu().numpy(), samples, tuple(mean.shape[1:]), seed)).to(mean)


def sample_losses(model: Model, x: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Compute −log p(x|z) for K samples of each posterior.

    Args:
        model: As of `score`.
        x: Images (N, C, H, W) in [0, 1].
        mean: Means of q(z|x), (N, …).
        log_variance: Log-variances of q(z|x), (N, …).
        noise: ε of the samples, (N, K, …).

    Returns:
        Losses (K, N) in nats.

    """
    deviation = torch.exp(0.5 * log_variance)
    samples: Sequence[Tensor] = noise.unbind(1)
    return torch.stack([model.reconstruction_loss(model.decode(mean + each * deviation), x) for each in samples])


def log_ratios(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Compute log p(z) − log q(z|x) of samples whose ε is `noise` (N, K, …): (K, N)."""
    z = mean.unsqueeze(1) + noise * torch.exp(0.5 * log_variance).unsqueeze(1)
    return 0.5 * (noise.square() + log_variance.unsqueeze(1) - z.square()).flatten(2).sum(2).T
