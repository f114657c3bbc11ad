"""Reconstruction loss, KL divergence and ELBO, each per image: nothing here averages over the batch."""

import torch
from torch import Tensor

from vae.likelihoods import Bernoulli, Likelihood

BERNOULLI = Bernoulli()


def reconstruction_loss(decoded: Tensor, x: Tensor, likelihood: Likelihood = BERNOULLI) -> Tensor:
    """Compute −log p(x|z) of images, summed over channels and pixels.

    By default grey values are treated as Bernoulli probabilities, as in the article, and the loss is the binary
    cross-entropy. exp(−loss) is then not a normalised density of x (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845),
    and neither is anything derived from the loss.

    Args:
        decoded: Decoder output: logits (N, C, H, W), or the parameters of `likelihood`.
        x: Images (N, C, H, W) in [0, 1].
        likelihood: p(x|z), `likelihood` of the model.

    Returns:
        Losses (N,) in nats.

    """
    return likelihood.pixel_losses(decoded, x).flatten(1).sum(1)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute KL(N(mean, exp(log_variance)) ‖ N(0, I)) in closed form (Kingma & Welling 2014, appendix B).

    Args:
        mean: Posterior means (N, …).
        log_variance: Posterior log-variances, of the same shape.

    Returns:
        Divergences (N,) in nats.

    """
    return -0.5 * (1 + log_variance - mean.square() - torch.exp(log_variance)).flatten(1).sum(1)


def elbo(decoded: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor, likelihood: Likelihood = BERNOULLI) -> Tensor:
    """Estimate the evidence lower bound from one sample of each posterior.

    With `decoded` from the posterior mean instead, the result is the plug-in value, which is not a bound.

    Args:
        decoded: Output of the decoder for one posterior sample of each image, as of `reconstruction_loss`.
        x: Images (N, C, H, W) in [0, 1].
        mean: Posterior means (N, D).
        log_variance: Posterior log-variances (N, D).
        likelihood: p(x|z), `likelihood` of the model.

    Returns:
        Estimates (N,) in nats.

    """
    return -(reconstruction_loss(decoded, x, likelihood) + kl_divergence(mean, log_variance))


def log_importance_weight(
    decoded: Tensor, x: Tensor, z: Tensor, mean: Tensor, log_variance: Tensor, likelihood: Likelihood = BERNOULLI
) -> Tensor:
    """Compute log p(x|z) + log p(z) − log q(z|x).

    The log of the mean of K such weights is a lower bound of log p(x), on average tighter for larger K
    (Burda et al. 2016, arXiv:1509.00519).

    Args:
        decoded: Output of the decoder for `z`, as of `reconstruction_loss`.
        x: Images (N, C, H, W) in [0, 1].
        z: Latents (N, D) drawn from q(z|x).
        mean: Posterior means (N, D).
        log_variance: Posterior log-variances (N, D).
        likelihood: p(x|z), `likelihood` of the model.

    Returns:
        Logs (N,) of the weights, in nats.

    """
    standardised = (z - mean) * torch.exp(-0.5 * log_variance)
    log_prior_over_posterior = 0.5 * (standardised.square() + log_variance - z.square()).flatten(1).sum(1)
    return log_prior_over_posterior - reconstruction_loss(decoded, x, likelihood)
