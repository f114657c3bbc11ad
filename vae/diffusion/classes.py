"""The classes of diffusers that can be served, a row each.

What a class does with latents is what its pipelines in diffusers do before `decode` and after `encode`. A function of a
row gets the network, an object of the class. Neither torch nor diffusers is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vae.diffusion.config import DiffusionConfig
from vae.diffusion.dtypes import Dtype
from vae.diffusion.normalisation import Normalisation
from vae.metadata import CheckpointError


@dataclass(frozen=True)
class DiffusionClass:
    """How one class is used."""

    stride: Callable[[Any], int]
    size: Callable[[Any], tuple[int, ...]]
    """The nominal height and width, preceded by the number of frames of a video."""
    normalisation: Callable[[Any], Normalisation]
    encoded: Literal["latent_dist", "latent", "latents"] = "latent_dist"
    """What `encode` returns: a posterior, or latents under one of two names."""
    channels: Callable[[Any], tuple[int, int]] = lambda network: (
        network.config.in_channels,
        network.config.out_channels,
    )
    """Channels of images that are encoded, and of images that are decoded."""
    latent_channels: str = "latent_channels"
    """Field of the configuration."""
    temporal_stride: Callable[[Any], int] = lambda _: 1
    even_latents_whole: bool = False
    has_frame_axis: bool = False
    frame_rate: Callable[[Any], int] = lambda _: 24
    """Frames per second of the videos that its diffusion models are trained on."""
    piece: Callable[[Any, Any], Any] | None = None
    """Where `decode` calls the network's decoder for a few frames at a time: maps the network and what its decoder
    returns to these frames (N, C, t, H, W), as they are in what `decode` returns."""


def _halvings(field: str) -> Callable[[Any], int]:
    """Count the resolutions of a network that halves its images after all but the last of them."""
    return lambda network: int(2 ** (len(network.config[field]) - 1))


def _compression(network: Any) -> int:
    return int(network.spatial_compression_ratio)


def _temporal_compression(network: Any) -> int:
    return int(network.temporal_compression_ratio)


def _sample_size(network: Any) -> tuple[int, ...]:
    return network.config.sample_size, network.config.sample_size


def _fixed(*size: int) -> Callable[[Any], tuple[int, ...]]:
    return lambda _: size


def _factors(network: Any) -> Normalisation:
    """As `_moments` where an AutoencoderKL has them, as Playground's; the pipelines of SDXL use them."""
    config = network.config
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        return _moments(network)
    return Normalisation(
        float(config.get("shift_factor") or 0.0),
        float(config.scaling_factor or 1.0),
        divides=bool(config.get("invert_scale_latents")),
    )


def _moments(network: Any) -> Normalisation:
    """Mean and standard deviation of each channel, which the configuration has, and a factor if it has that."""
    config = network.config
    return _per_channel(config.latents_mean, config.latents_std, config.get("scaling_factor"))


def _buffers(network: Any) -> Normalisation:
    return _per_channel(network.latents_mean.cpu(), network.latents_std.cpu(), network.config.scaling_factor)


def _per_channel(mean: Any, deviation: Any, factor: Any) -> Normalisation:
    with np.errstate(divide="ignore"):  # `_check` refuses what is not finite
        scale = np.float32(factor or 1.0) / np.asarray(deviation, np.float32)
    return Normalisation(np.asarray(mean, np.float32), scale)


def _piece_of_wan(network: Any, frames: Any) -> Any:
    """Undo the patches, and clip, as `decode` does once it has all frames."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify  # noqa: PLC0415 - an extra

    if network.config.patch_size is not None:
        frames = unpatchify(frames, network.config.patch_size)
    return frames.clamp(-1, 1)


def _piece_of_cogvideox(_: Any, output: Any) -> Any:
    """Return the frames without the cache of the next piece."""
    frames, _cache = output
    return frames


def _batch_norm(network: Any) -> Normalisation:
    variance = network.bn.running_var.cpu() + network.config.batch_norm_eps
    patch_size, _ = network.config.patch_size
    return Normalisation(network.bn.running_mean.cpu().numpy(), variance.rsqrt().numpy(), patch_size)


CLASSES = {
    "AutoencoderKL": DiffusionClass(_halvings("block_out_channels"), _sample_size, _factors),
    "AutoencoderTiny": DiffusionClass(
        _halvings("encoder_block_out_channels"), _fixed(512, 512), _factors, encoded="latents"
    ),
    "AutoencoderDC": DiffusionClass(
        _compression,
        _fixed(512, 512),
        _factors,
        encoded="latent",
        channels=lambda network: (network.config.in_channels,) * 2,
    ),
    "AsymmetricAutoencoderKL": DiffusionClass(_halvings("down_block_out_channels"), _sample_size, _factors),
    "AutoencoderKLFlux2": DiffusionClass(_halvings("block_out_channels"), _sample_size, _batch_norm),
    "AutoencoderKLQwenImage": DiffusionClass(
        _compression,
        _fixed(512, 512),
        _moments,
        channels=lambda network: (network.config.input_channels,) * 2,
        latent_channels="z_dim",
        has_frame_axis=True,
    ),
    "AutoencoderKLWan": DiffusionClass(
        lambda network: network.config.scale_factor_spatial,
        _fixed(81, 480, 832),
        _moments,
        channels=lambda network: tuple(
            channels // (network.config.patch_size or 1) ** 2
            for channels in (network.config.in_channels, network.config.out_channels)
        ),
        latent_channels="z_dim",
        temporal_stride=lambda network: network.config.scale_factor_temporal,
        frame_rate=lambda network: 24 if network.config.is_residual else 16,  # Wan 2.2's 5B, and all others
        piece=_piece_of_wan,
    ),
    "AutoencoderKLHunyuanVideo": DiffusionClass(
        _compression, _fixed(129, 720, 1280), _factors, temporal_stride=_temporal_compression
    ),
    "AutoencoderKLLTXVideo": DiffusionClass(
        _compression, _fixed(161, 512, 704), _buffers, temporal_stride=_temporal_compression
    ),
    "AutoencoderKLCogVideoX": DiffusionClass(
        _halvings("block_out_channels"),
        lambda network: (49, network.config.sample_height, network.config.sample_width),
        _factors,
        temporal_stride=lambda network: int(network.config.temporal_compression_ratio),
        even_latents_whole=True,
        frame_rate=lambda _: 8,
        piece=_piece_of_cogvideox,
    ),
}
"""The name of a class → how it is used."""


def configuration(network: Any, dtype: Dtype = "float32") -> DiffusionConfig:
    """Return the configuration of an object of one of CLASSES that computes in `dtype`.

    float16 becomes float32 where the network's configuration has `force_upcast`: its activations exceed float16.

    Raises:
        CheckpointError: The network's configuration is unusable.

    """
    architecture = type(network).__name__
    row, config = CLASSES[architecture], network.config
    stride, (channels, decoded), latent_channels = (
        row.stride(network),
        row.channels(network),
        config[row.latent_channels],
    )
    *frames, height, width = row.size(network)
    if any(type(side) is not int or side < stride or side % stride for side in (height, width)):
        sides = height if height == width else f"{height}×{width}"
        raise CheckpointError(f"sample_size is {sides!r}; it must be a multiple of {stride}.")
    if channels != decoded or channels not in (1, 3):
        raise CheckpointError(f"in_channels is {channels} and out_channels is {decoded}; both must be 1, or both 3.")
    temporal_stride = row.temporal_stride(network)
    latent_frames = ((count - 1) // temporal_stride + 1 for count in frames)
    normalisation = row.normalisation(network)
    _check(normalisation, latent_channels * normalisation.patch_size**2)
    return DiffusionConfig(
        architecture=architecture,
        image_shape=(channels, *frames, height, width),
        latent_shape=(latent_channels, *latent_frames, height // stride, width // stride),
        stride=stride,
        normalisation=normalisation,
        temporal_stride=temporal_stride,
        even_latents_whole=row.even_latents_whole,
        has_frame_axis=row.has_frame_axis,
        frame_rate=row.frame_rate(network),
        dtype="float32" if dtype == "float16" and config.get("force_upcast") else dtype,
    )


def _check(normalisation: Normalisation, channels: int) -> None:
    mean, scale = np.asarray(normalisation.mean), np.asarray(normalisation.scale)
    shapes = {mean.shape, scale.shape} - {(), (channels,)}
    if shapes or not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise CheckpointError(
            f"its normalisation of latents is unusable: it must have {channels} means, and as many standard deviations "
            "and a factor that are positive."
        )
