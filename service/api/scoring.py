"""How unusual images are: the ELBO and its relatives, and outlier factors, for all protocols."""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from service.api.context import ModelContext
from service.api.offloading import VALUE_S
from service.api.request import Request
from service.formats.arrays import Array
from service.inference.engine import Engine
from service.inference.posterior import estimate_elbo, importance_weighted_bound
from service.inference.reconstruction import Reconstruction
from vae.noise import image_noise

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

LOSS_BYTES = 16
"""Bytes per loss: twice as float32, and as float64 in its standard deviation."""
BOUND_COPIES = 4
"""Arrays of the size of the noise that the bound needs in addition: latents, and terms of their densities."""
NOISE_IMAGE_S = 20e-6
"""Seconds to begin the noise of an image, on a slow core; its numbers come in addition."""
PRODUCT_S = 0.1e-9
"""A term of a product of matrices, in seconds, on a slow core."""


async def score(
    request: Request,
    context: ModelContext,
    images: FloatArray,
    posterior: Reconstruction,
    *,
    draws: int,
    samples: int,
    seed: int,
    level: float,
) -> dict[str, Array]:
    """Score N images, reconstructed from the means of their posteriors: values (N,) by the names of /score's response.

    `reserve_scores` has charged the memory.
    """
    bounds = await estimate_bounds(request, context.engine, images, posterior, draws=draws, samples=samples, seed=seed)
    losses = {"reconstruction_loss": posterior.reconstruction_loss, "kl_divergence": posterior.kl_divergence}
    values: dict[str, Array] = bounds | losses
    if references := context.references:
        seconds = len(images) * (references.row_size * VALUE_S + references.mean.size * PRODUCT_S)
        factor = await request.run(seconds, references.outlier_factor, posterior.mean)
        values["outlier_factor"] = factor
    calibration = context.calibration
    if calibration and calibration.applies(values.keys(), samples):
        values["percentile"] = calibration.percentile(values)
        values["anomalous"] = values["percentile"] > np.float32(level)
    return values


async def estimate_bounds(
    request: Request,
    engine: Engine,
    images: FloatArray,
    posterior: Reconstruction,
    *,
    draws: int,
    samples: int,
    seed: int,
) -> dict[str, FloatArray]:
    """Estimate the ELBO of N images by `draws` posterior samples, and the bound by `samples` unless that is 0.

    Both have the same samples, as in `vae.score`.
    """
    count, shape = max(draws, samples), engine.config.latent_shape
    seconds = len(images) * NOISE_IMAGE_S + (images.size + len(images) * count * prod(shape)) * VALUE_S
    noise = await request.run(seconds, image_noise, images, count, shape, seed)
    mean, log_variance = posterior.mean, posterior.log_variance
    losses = await engine.sample_losses(images, mean, log_variance, noise, timing=request.timing)
    seconds = losses.size * VALUE_S
    elbo, error = await request.run(seconds, estimate_elbo, losses[:draws], posterior.kl_divergence)
    bounds = {"elbo": elbo, "elbo_standard_error": error}
    if samples:
        own, own_losses = noise[:, :samples], losses[:samples]
        seconds = (BOUND_COPIES * own.size + own_losses.size) * VALUE_S
        bound = await request.run(seconds, importance_weighted_bound, own_losses, mean, log_variance, own)
        bounds["importance_weighted_bound"] = bound
    return bounds


def reserve_draws(request: Request, context: ModelContext, count: int, draws: int, samples: int) -> None:
    """Charge what `estimate_bounds` takes for `count` images to the memory budget; raises TooLarge or Unavailable."""
    decoded = count * max(draws, samples)
    context.limits.check_batch(decoded, "decoded draws")
    context.limits.check_pixels(decoded, context.engine.config.image_shape, "The images decoded for draws")
    noise = decoded + BOUND_COPIES * count * samples
    request.reserve(4 * noise * prod(context.engine.config.latent_shape) + LOSS_BYTES * decoded)


def reserve_scores(request: Request, context: ModelContext, count: int, draws: int, samples: int) -> None:
    """Charge what `score` takes for `count` images: their samples and reconstructions."""
    reserve_draws(request, context, count, draws, samples)
    request.reserve(4 * count * prod(context.engine.config.image_shape))
    if context.references:
        request.reserve(context.references.working_bytes(count))


def loss_scanlines(losses: FloatArray) -> ByteArray:
    """Draw losses per pixel (N, 1, H, W) as scanlines, uint8 (N, H, 1 + W).

    Each image is scaled by itself: its lowest loss is black, its highest white.
    """
    count, _, height, width = losses.shape
    low, high = (extreme(losses, (2, 3), keepdims=True) for extreme in (np.min, np.max))
    levels = (losses - low) * (255 / np.maximum(high - low, np.finfo(np.float32).tiny))
    scanlines = np.zeros((count, height, 1 + width), np.uint8)
    scanlines[:, :, 1:] = np.rint(levels)[:, 0]
    return scanlines
