"""Rate and distortion, per image and kept apart: nothing here is averaged over a batch."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def reconstruction_loss(logits: Tensor, x: Tensor) -> Tensor:
    """Binary cross-entropy of images `x` (N, C, H, W) in [0, 1] under `logits` of that shape, summed over pixels.

    Returns (N,), nats. Grey targets are taken as probabilities, as the article does: then exp(−loss) is no normalised
    density of x (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845), and no figure made of the loss is one.
    """
    return binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) ‖ N(0, I)) of (N, …), in closed form (Kingma & Welling 2014, appendix B).

    Returns (N,), nats.
    """
    return -0.5 * (1 + log_variance - mean.square() - torch.exp(log_variance)).flatten(1).sum(1)


def elbo(logits: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """One sample's estimate of the evidence lower bound, for `logits` decoded from a draw of the posterior; (N,), nats.

    Of logits that were decoded from the posterior mean it gives the plug-in value, which is no bound.
    """
    return -(reconstruction_loss(logits, x) + kl_divergence(mean, log_variance))


def log_importance_weight(logits: Tensor, x: Tensor, z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log p(x|z) + log p(z) − log q(z|x) of latents `z` (N, D) drawn from q(z|x), decoded to `logits`; (N,), nats.

    The log of the mean of K such weights bounds log p(x) from below, the tighter the more there are
    (Burda et al. 2016, arXiv:1509.00519).
    """
    standardised = (z - mean) * torch.exp(-0.5 * log_variance)
    log_prior_over_posterior = 0.5 * (standardised.square() + log_variance - z.square()).sum(1)
    return log_prior_over_posterior - reconstruction_loss(logits, x)
