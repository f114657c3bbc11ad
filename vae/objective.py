"""Reconstruction loss, KL divergence and ELBO, each per image: nothing here averages over the batch."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def reconstruction_loss(logits: Tensor, x: Tensor) -> Tensor:
    """Compute the binary cross-entropy of images under `logits`, summed over channels and pixels.

    Grey values are treated as probabilities, as in the article. exp(−loss) is then not a normalised density of x
    (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845), and neither is anything derived from the loss.

    Args:
        logits: Decoder output (N, C, H, W).
        x: Images (N, C, H, W) in [0, 1].

    Returns:
        Losses (N,) in nats.

    """
    return pixel_losses(logits, x).flatten(1).sum(1)


def pixel_losses(logits: Tensor, x: Tensor) -> Tensor:
    """Compute the terms of `reconstruction_loss`: one for each channel of a pixel, (N, C, H, W), nats."""
    return binary_cross_entropy_with_logits(logits, x, reduction="none")


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute KL(N(mean, exp(log_variance)) ‖ N(0, I)) in closed form (Kingma & Welling 2014, appendix B).

    Args:
        mean: Posterior means (N, …).
        log_variance: Posterior log-variances, of the same shape.

    Returns:
        Divergences (N,) in nats.

    """
    return -0.5 * (1 + log_variance - mean.square() - torch.exp(log_variance)).flatten(1).sum(1)


def elbo(logits: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Estimate the evidence lower bound from one sample of each posterior.

    With logits decoded from the posterior mean instead, the result is the plug-in value, which is not a bound.

    Args:
        logits: Output (N, C, H, W) of the decoder for one posterior sample of each image.
        x: Images (N, C, H, W) in [0, 1].
        mean: Posterior means (N, D).
        log_variance: Posterior log-variances (N, D).

    Returns:
        Estimates (N,) in nats.

    """
    return -(reconstruction_loss(logits, x) + kl_divergence(mean, log_variance))


def log_importance_weight(logits: Tensor, x: Tensor, z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute log p(x|z) + log p(z) − log q(z|x).

    The log of the mean of K such weights is a lower bound of log p(x), on average tighter for larger K
    (Burda et al. 2016, arXiv:1509.00519).

    Args:
        logits: Output (N, C, H, W) of the decoder for `z`.
        x: Images (N, C, H, W) in [0, 1].
        z: Latents (N, D) drawn from q(z|x).
        mean: Posterior means (N, D).
        log_variance: Posterior log-variances (N, D).

    Returns:
        Logs (N,) of the weights, in nats.

    """
    standardised = (z - mean) * torch.exp(-0.5 * log_variance)
    log_prior_over_posterior = 0.5 * (standardised.square() + log_variance - z.square()).flatten(1).sum(1)
    return log_prior_over_posterior - reconstruction_loss(logits, x)
