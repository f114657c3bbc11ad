"""Likelihoods p(x|z): how the values of an image are distributed, independently, given the decoder's output.

`service/inference/likelihoods.py` has the same in NumPy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from vae.config import LOG_SCALE_BOUNDS, VAEConfig

SERIES_BELOW = 0.5
"""Logits below it in magnitude use the series of the continuous Bernoulli, whose closed forms cancel at 0.

The first term left out is then below 1e-8, the rounding of float32.
"""
MIN_DEVIATION = 1 / 255
"""Least initial scale, a grey level: images can all be the same."""


class Likelihood(nn.Module, ABC):
    """The distribution of images x (N, C, H, W), values in [0, 1], given the decoder's output for N latents."""

    @abstractmethod
    def pixel_losses(self, output: Tensor, x: Tensor) -> Tensor:
        """Compute −log p of each value of `x`: (N, C, H, W), nats."""

    @abstractmethod
    def to_image_(self, output: Tensor) -> Tensor:
        """Turn the decoder's output into images (N, C, H, W) in [0, 1], the means of p(x|z), in place."""

    @abstractmethod
    def initialize_(self, bias: Tensor, image: Tensor, deviation: float) -> None:
        """Set a bias of the decoder's last layer, and the scale if there is one, before the training.

        Args:
            bias: The bias (B,); changed so that the output 0 plus bias gives about `image`.
            image: The mean image (C·H·W,), or its channels (C,), in [0, 1].
            deviation: Standard deviation of the images from their mean image.

        """


class Bernoulli(Likelihood):
    """A value is a probability, whose logit is the output; the loss is the binary cross-entropy.

    exp(−loss) is not a normalised density of grey values (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845).
    """

    def pixel_losses(self, output: Tensor, x: Tensor) -> Tensor:
        """As Likelihood."""
        return binary_cross_entropy_with_logits(output, x, reduction="none")

    def to_image_(self, output: Tensor) -> Tensor:
        """As Likelihood.

        The result of one value never depends on the others. `torch.sigmoid_` uses two formulas, whose last bits differ:
        one for full SIMD vectors, and one for the rest of a tensor or of a thread's part.
        """
        return output.neg_().exp_().add_(1).reciprocal_()

    def initialize_(self, bias: Tensor, image: Tensor, _deviation: float) -> None:
        """As Likelihood."""
        bias.copy_(torch.logit(image, eps=1e-4))


class ContinuousBernoulli(Likelihood):
    """The density l·exp(x·l) / (exp(l) − 1) of x in [0, 1], whose logit l is the output (arXiv:1907.06845).

    It is the Bernoulli likelihood with its normalising constant. Its mean is not sigmoid(l): it nears 0 and 1 only as
    1/l, so that black and white need large logits.
    """

    def pixel_losses(self, output: Tensor, x: Tensor) -> Tensor:
        """As Likelihood: log ∫ exp(t·l) dt over [0, 1], minus x·l."""
        small = output.abs() < SERIES_BELOW
        near, far = output.where(small, 0), output.where(~small, 1)  # neither formula sees values it fails for
        square, size = near.square(), far.abs()
        series = near / 2 + square * (1 / 24 + square * (-1 / 2880 + square / 181_440))
        closed = far.clamp(min=0) + torch.log(-torch.expm1(-size) / size)
        return torch.where(small, series, closed) - x * output

    def to_image_(self, output: Tensor) -> Tensor:
        """As Likelihood: 1/(1 − exp(−l)) − 1/l."""
        small = output.abs() < SERIES_BELOW
        near, far = output.where(small, 0), output.where(~small, 1)
        square = near.square()
        series = 0.5 + near * (1 / 12 + square * (-1 / 720 + square / 30_240))
        closed = -torch.expm1(-far).reciprocal() - far.reciprocal()
        return output.copy_(torch.where(small, series, closed))

    def initialize_(self, bias: Tensor, image: Tensor, _deviation: float) -> None:
        """As Likelihood, with logits of at most 100 in magnitude: means from 0.01 to 0.99."""
        logits = torch.linspace(-100, 100, 100_001, dtype=torch.float64)
        means = self.to_image_(logits.clone())
        bias.copy_(torch.from_numpy(np.interp(image.numpy(force=True), means.numpy(), logits.numpy())))


class _LocationScale(Likelihood):
    """A distribution whose location is the output, clipped to [0, 1] for the image, with a learned scale.

    The log-scale is the parameter `log_scale` (1,) of the model, or the second half of the output's channels. It is
    bounded softly, as in Chua et al. (2018, arXiv:1805.12114), appendix A.1.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self._channels = config.image_shape[0]
        self._bounds = LOG_SCALE_BOUNDS[config.likelihood]
        self.log_scale = nn.Parameter(torch.zeros(1)) if config.scale == "model" else None

    def to_image_(self, output: Tensor) -> Tensor:
        """As Likelihood."""
        return output[:, : self._channels].clamp_(0, 1)

    def initialize_(self, bias: Tensor, image: Tensor, deviation: float) -> None:
        """As Likelihood."""
        bias[: len(image)] = image
        log_scale = bias[len(image) :] if self.log_scale is None else self.log_scale.data
        log_scale.fill_(math.log(max(deviation, MIN_DEVIATION)))

    def _parameters_of(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the location (N, C, H, W), and the bounded log-scale in the same shape or as (1,)."""
        lower, upper = self._bounds
        log_scale = output[:, self._channels :] if self.log_scale is None else self.log_scale
        below = upper + logsigmoid(log_scale - upper)
        return output[:, : self._channels], lower - logsigmoid(lower - below)


class Gaussian(_LocationScale):
    """The density N(location, scale²): of values in [0, 1], so that it can exceed 1 and its loss be negative.

    Learning the scale weights reconstruction and KL divergence as the data ask for (Rybkin et al. 2021,
    arXiv:2006.13202).
    """

    def pixel_losses(self, output: Tensor, x: Tensor) -> Tensor:
        """As Likelihood."""
        location, log_scale = self._parameters_of(output)
        standardised = (x - location) * torch.exp(-log_scale)
        return 0.5 * standardised.square() + (log_scale + 0.5 * math.log(2 * math.pi))


class Logistic(_LocationScale):
    """Probabilities of the 256 levels of 8-bit values: those that a logistic distribution gives to the levels' bins.

    The bins of 0 and 255 reach to infinity (Kingma et al. 2016, arXiv:1606.04934; Salimans et al. 2017,
    arXiv:1701.05517). The loss is −log P of the nearest level; divided by ln 2 and averaged over values it is bits/dim.
    """

    def pixel_losses(self, output: Tensor, x: Tensor) -> Tensor:
        """As Likelihood: P = σ(upper)·σ(−lower)·(1 − exp(lower − upper)) of a bin from `lower` to `upper`."""
        location, log_scale = self._parameters_of(output)
        levels = torch.round(x * 255)
        inverse_scale = torch.exp(-log_scale)
        centre, half_bin = (levels / 255 - location) * inverse_scale, inverse_scale / 510
        not_above, not_below = -logsigmoid(centre + half_bin), -logsigmoid(half_bin - centre)
        inner = not_above + not_below - torch.log(-torch.expm1(-2 * half_bin))
        return torch.where(levels == 0, not_above, torch.where(levels == 255, not_below, inner))


def new_likelihood(config: VAEConfig) -> Likelihood:
    """Create the likelihood of `config`."""
    match config.likelihood:
        case "bernoulli":
            return Bernoulli()
        case "continuous-bernoulli":
            return ContinuousBernoulli()
        case "gaussian":
            return Gaussian(config)
        case "logistic":
            return Logistic(config)
