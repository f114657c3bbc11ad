"""The likelihoods of `vae.likelihoods` in NumPy; ONNX Runtime computes the image of a Bernoulli likelihood."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vae.config import LOG_SCALE_BOUNDS, VAEConfig

FloatArray = npt.NDArray[np.float32]

SERIES_BELOW = 0.5
"""Logits below it in magnitude use the series of the continuous Bernoulli, as in `vae.likelihoods`."""


def to_image(config: VAEConfig, output: FloatArray) -> FloatArray:
    """Return the means of p(x|z), (N, C, H, W) in [0, 1], given the decoder's output (N, C or 2·C, H, W).

    Of all likelihoods but the Bernoulli one.
    """
    if config.likelihood == "continuous-bernoulli":
        return _continuous_bernoulli_mean(output)
    return np.clip(output[:, : config.image_shape[0]], 0, 1)


def pixel_losses(
    config: VAEConfig, output: FloatArray, x: FloatArray, log_scale: FloatArray | None = None
) -> FloatArray:
    """Return −log p(x|z) of each value of images, as `pixel_losses` of `vae.likelihoods`.

    Args:
        config: The model's.
        output: The decoder's output, (N, C or 2·C, H, W).
        x: Images (N, C, H, W) in [0, 1].
        log_scale: The model's tensor `likelihood.log_scale`, if it has one.

    Returns:
        Losses (N, C, H, W), nats.

    """
    match config.likelihood:
        case "bernoulli":
            losses: FloatArray = np.maximum(output, 0) - output * x + np.log1p(np.exp(-np.abs(output)))
            return losses
        case "continuous-bernoulli":
            return _continuous_bernoulli_log_normalizer(output) - x * output
        case "gaussian" | "logistic":
            channels = config.image_shape[0]
            location, raw_scale = output[:, :channels], output[:, channels:] if log_scale is None else log_scale
            lower, upper = map(np.float32, LOG_SCALE_BOUNDS[config.likelihood])
            bounded = lower + _softplus(upper - _softplus(upper - raw_scale) - lower)
            compute = _gaussian_losses if config.likelihood == "gaussian" else _logistic_losses
            return compute(location, bounded, x)


def _continuous_bernoulli_mean(logits: FloatArray) -> FloatArray:
    small = np.abs(logits) < SERIES_BELOW
    near, far = np.where(small, logits, 0), np.where(small, 1, logits)
    square = np.square(near)
    series = 0.5 + near * (1 / 12 + square * (-1 / 720 + square / 30_240))
    exponential = np.expm1(np.minimum(-far, 80))  # exp(89) overflows; 1 / exp(80) is already 0 beside 1 / 80
    image: FloatArray = np.where(small, series, -1 / exponential - 1 / far)
    return image


def _continuous_bernoulli_log_normalizer(logits: FloatArray) -> FloatArray:
    small = np.abs(logits) < SERIES_BELOW
    near, far = np.where(small, logits, 0), np.where(small, 1, logits)
    square, size = np.square(near), np.abs(far)
    series = near / 2 + square * (1 / 24 + square * (-1 / 2880 + square / 181_440))
    closed = np.maximum(far, 0) + np.log(-np.expm1(-size) / size)
    log_normalizer: FloatArray = np.where(small, series, closed)
    return log_normalizer


def _gaussian_losses(location: FloatArray, log_scale: FloatArray, x: FloatArray) -> FloatArray:
    standardised = (x - location) * np.exp(-log_scale)
    losses: FloatArray = 0.5 * np.square(standardised) + (log_scale + 0.5 * math.log(2 * math.pi))
    return losses


def _logistic_losses(location: FloatArray, log_scale: FloatArray, x: FloatArray) -> FloatArray:
    levels: FloatArray = np.rint(x * 255)
    inverse_scale: FloatArray = np.exp(-log_scale)
    centre = (levels * np.float32(1 / 255) - location) * inverse_scale
    half_bin = inverse_scale * np.float32(1 / 510)
    not_above, not_below = _softplus(-centre - half_bin), _softplus(centre - half_bin)
    inner = not_above + not_below - np.log(-np.expm1(-2 * half_bin))
    losses: FloatArray = np.where(levels == 0, not_above, np.where(levels == 255, not_below, inner))
    return losses


def _softplus(values: FloatArray) -> FloatArray:
    """log(1 + exp(values))."""
    result: FloatArray = np.maximum(values, 0) + np.log1p(np.exp(-np.abs(values)))
    return result
