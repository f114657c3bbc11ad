"""Networks of the architectures, as layers: encoders without their two heads, decoders without the likelihood.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import gcd, prod
from typing import NamedTuple

from vae.config import LOG_SCALE_BOUNDS, VAEConfig
from vae.layers import (
    Conv2d,
    ConvTranspose2d,
    Flatten,
    GroupNorm,
    Layer,
    Layers,
    LeakyReLU,
    Linear,
    Residual,
    Shapes,
    SiLU,
    Unflatten,
    Upsample,
    layer_shapes,
)


class Network(NamedTuple):
    """The layers of a VAE."""

    encoder: Layers
    """Images (N, C·H·W) → features (N, …)."""
    head: Linear | Conv2d
    """Features → the mean of the latent, (N, D) or (N, C', h, w); another such layer → its log-variance."""
    decoder: Layers
    """Latents → parameters (N, …) of the likelihood, of which `output_shape` is the shape."""


def network(config: VAEConfig) -> Network:
    """Return the network that `config` describes: that of its architecture, with outputs for its likelihood."""
    encoder, features, (*layers, last) = ARCHITECTURES[config.architecture](config)
    if not isinstance(last, Linear | Conv2d):
        raise TypeError(f"The last layer of a decoder is {last}; it must be Linear or Conv2d.")
    outputs = last.outputs * prod(config.output_shape) // config.pixels
    return Network(encoder, features, (*layers, replace(last, outputs=outputs)))


def tensor_shapes(config: VAEConfig) -> Shapes:
    """Return the shapes of all tensors, by the names that they have in a state_dict: `encoder.0.weight` and so on."""
    encoder, head, decoder = network(config)
    parts = {"mean_layer": head.shapes, "log_variance_layer": head.shapes}
    parts |= {"encoder": layer_shapes(encoder), "decoder": layer_shapes(decoder)}
    if config.likelihood in LOG_SCALE_BOUNDS and config.scale == "model":
        parts["likelihood"] = {"log_scale": (1,)}
    return {f"{part}.{name}": shape for part, shapes in parts.items() for name, shape in shapes.items()}


def mlp(config: VAEConfig) -> Network:
    """Return a perceptron whose hidden layers, `hidden_layers` on each side, all have `hidden_dim` units."""
    pixels, hidden, slope = config.pixels, config.hidden_dim, config.negative_slope

    def layers(inputs: int) -> list[Layer]:
        widths = [inputs] + [hidden] * config.hidden_layers
        return [layer for width in widths[:-1] for layer in (Linear(width, hidden), LeakyReLU(slope))]

    head = Linear(hidden, config.latent_dim)
    return Network(tuple(layers(pixels)), head, (*layers(config.latent_dim), Linear(hidden, pixels)))


def conv(config: VAEConfig) -> Network:
    """Return strided convolutions down to a coarse map of `hidden_dim` channels, and transposed ones up again.

    Channels double as height and width halve, as in DCGAN (Radford et al. 2016). On each side a hidden layer of
    4·`hidden_dim` units connects the map to the latent. Any height and width are restored exactly.
    """
    channels, height, width = config.image_shape
    sizes = [(height, width), *config.feature_sizes]
    stages = len(config.feature_sizes)
    widths = [max(8, config.hidden_dim >> (stages - 1 - stage)) for stage in range(stages)]
    coarse, hidden, slope = widths[-1] * sizes[-1][0] * sizes[-1][1], 4 * config.hidden_dim, config.negative_slope

    down: list[Layer] = [Unflatten(config.image_shape)]
    for source, target in zip([channels, *widths], widths, strict=False):
        down += [Conv2d(source, target, (3, 3), stride=2, padding=1), LeakyReLU(slope)]
    down += [Flatten(), Linear(coarse, hidden), LeakyReLU(slope)]

    up: list[Layer] = [Linear(config.latent_dim, hidden), LeakyReLU(slope)]
    up += [Linear(hidden, coarse), LeakyReLU(slope), Unflatten((widths[-1], *sizes[-1]))]
    for stage in reversed(range(stages)):
        kernel = (4 - sizes[stage][0] % 2, 4 - sizes[stage][1] % 2)  # n → 2n with kernel 4, n → 2n − 1 with kernel 3
        target = widths[max(stage - 1, 0)]
        up += [ConvTranspose2d(widths[stage], target, kernel, stride=2, padding=1), LeakyReLU(slope)]
    up.append(Conv2d(widths[0], channels, (3, 3), padding=1))
    return Network(tuple(down), Linear(hidden, config.latent_dim), tuple(up))


def resnet(config: VAEConfig) -> Network:
    """Return residual blocks with group norm and SiLU, `hidden_layers` of them at each resolution of each side.

    The blocks normalize before they convolve (He et al. 2016, arXiv:1603.05027). A strided convolution leads to each
    coarser resolution, the first of them half the image's, and one after nearest-neighbour upsampling back to the finer
    (Odena et al. 2016). Channels double as height and width halve, up to `hidden_dim`, at 4×4 pixels or at a latent
    map's resolution. One linear layer connects the coarsest map to a vector, a 1×1 convolution to a latent map. Any
    height and width are restored exactly.
    """
    channels, height, width = config.image_shape
    sizes, latent_map = config.feature_sizes, config.latent_map
    if latent_map:
        sizes = sizes[: sizes.index(latent_map[1:]) + 1]
    widths = [max(8, config.hidden_dim >> (len(sizes) - 1 - stage)) for stage in range(len(sizes))]

    down: list[Layer] = [Unflatten(config.image_shape)]
    for source, target in zip([channels, *widths], widths, strict=False):
        down += [Conv2d(source, target, (3, 3), stride=2, padding=1), *_residual_blocks(target, config.hidden_layers)]
    down += [_group_norm(widths[-1]), SiLU()]

    head: Linear | Conv2d
    up: list[Layer]
    if latent_map:
        head = Conv2d(widths[-1], latent_map[0], (1, 1))
        up = [Conv2d(latent_map[0], widths[-1], (3, 3), padding=1)]
    else:
        coarse = (widths[-1], *sizes[-1])
        down.append(Flatten())
        head = Linear(prod(coarse), config.latent_dim)
        up = [Linear(config.latent_dim, prod(coarse)), Unflatten(coarse)]

    for stage in range(len(sizes) - 1, 0, -1):
        up += [*_residual_blocks(widths[stage], config.hidden_layers), Upsample(sizes[stage - 1])]
        up.append(Conv2d(widths[stage], widths[stage - 1], (3, 3), padding=1))
    up += [*_residual_blocks(widths[0], config.hidden_layers), _group_norm(widths[0]), SiLU()]
    up += [Upsample((height, width)), Conv2d(widths[0], channels, (3, 3), padding=1)]
    return Network(tuple(down), head, tuple(up))


def _residual_blocks(channels: int, count: int) -> list[Layer]:
    """Return `count` blocks of `channels` channels."""
    convolution = Conv2d(channels, channels, (3, 3), padding=1)
    return [Residual((_group_norm(channels), SiLU(), convolution) * 2)] * count


def _group_norm(channels: int) -> GroupNorm:
    """Return the norm of groups of at least 8 channels, or of all: a group needs several values at one pixel."""
    return GroupNorm(gcd(channels, max(1, channels // 8)), channels)


ARCHITECTURES: dict[str, Callable[[VAEConfig], Network]] = {"mlp": mlp, "conv": conv, "resnet": resnet}
