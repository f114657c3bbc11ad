"""Latents: with or without a batch axis, packed or not, scaled or not → (N, …) as the model takes them."""

from __future__ import annotations

import numpy as np

from service.api.remote.options import Config, RemoteDecodeOptions
from service.api.remote.shapes import batch_of, check_patches, wrong_shape
from service.api.responses import FloatArray
from service.api.schemas import LATENT_BOUND
from service.errors import InvalidInput, Problem
from service.limits import Limits
from vae.diffusion.config import DiffusionConfig


def read_latents(
    z: FloatArray, options: RemoteDecodeOptions, config: Config, limits: Limits
) -> tuple[FloatArray, tuple[int, ...]]:
    """Check latents and undo their scaling; return them as (N, …), and the shape of their images.

    Raises InvalidInput or TooLarge.
    """
    z = _batch(z, options, config)
    if isinstance(config, DiffusionConfig) and z.ndim == 4 and z.shape[1] == _patch_channels(config):
        z = config.normalisation.unpatch(z)
    image_shape = config.image_shape_of(z.shape[1:])
    if image_shape is None:
        raise wrong_shape(options.shape, batch_of(config.latent_shape, config))
    limits.check_batch(len(z))
    limits.check_pixels(len(z), image_shape)
    normalisation = options.normalisation(config)
    check_patches(normalisation, z.shape)
    z = normalisation.patch(z)
    with np.errstate(over="ignore", invalid="ignore"):
        z = normalisation.denormalise(z)
    if not -LATENT_BOUND <= z.min() <= z.max() <= LATENT_BOUND:  # refuses NaN too
        problem = f"The tensor has numbers that are not finite or, scaled, beyond ±{LATENT_BOUND:g}."
        raise InvalidInput(Problem("body", "", problem))
    return z, image_shape


def _patch_channels(config: DiffusionConfig) -> int:
    """Return the channels of latents that are in patches, as of Flux 2."""
    return config.latent_shape[0] * config.normalisation.patch_size**2


def _batch(z: FloatArray, options: RemoteDecodeOptions, config: Config) -> FloatArray:
    """Add a missing batch axis, and unpack what Flux's pipeline has packed: SD.Next sends its latents without it."""
    single = config.image_shape_of(z.shape) is not None
    if (
        isinstance(config, DiffusionConfig)
        and z.ndim in (2, 3)
        and z.shape[-1] == 4 * config.latent_shape[0]
        and (not single or _is_packed(z.shape, options, config))
    ):
        return _unpack(z, options, config)
    return z[None] if single else z


def _is_packed(shape: tuple[int, ...], options: RemoteDecodeOptions, config: DiffusionConfig) -> bool:
    """Return whether (C', h, 4·C') is a batch of packed latents, rather than one latent; its image's sides tell."""
    count, height, width = shape
    rows, columns = _patches(options, config)
    packed, single = height == rows * columns, (height // 2, width // 2) == (rows, columns)
    if packed == single:
        latents = f"one latent of {height}×{width}, or {count} packed ones"
        problem = f"shape is {list(shape)}: {latents}. Send the height and width of the image, in pixels."
        raise InvalidInput(Problem("query", "/shape", problem))
    return packed


def _unpack(z: FloatArray, options: RemoteDecodeOptions, config: DiffusionConfig) -> FloatArray:
    """Unpack (h/2·w/2, C'·2·2), or a batch of them, to (N, C', h, w)."""
    rows, columns = _patches(options, config)
    if z.shape[-2] != rows * columns:
        side = 2 * config.stride
        packed = f"[N, (height/{side})·(width/{side}), {z.shape[-1]}]"
        raise wrong_shape(options.shape, f"{packed}, with the height and width of the image in pixels,")
    channels = config.latent_shape[0]
    patches = z.reshape(-1, rows, columns, channels, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    return patches.reshape(-1, channels, 2 * rows, 2 * columns)


def _patches(options: RemoteDecodeOptions, config: DiffusionConfig) -> tuple[int, int]:
    """Return the rows and columns of 2×2 latent positions in the image; 0 where its height and width are missing."""
    side = 2 * config.stride
    return (options.height or 0) // side, (options.width or 0) // side
