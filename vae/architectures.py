"""Encoder and decoder networks: encoders without their two heads, decoders without the final sigmoid."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from vae.config import VAEConfig

MIN_FEATURE_SIZE = 4
"""A convolutional encoder halves height and width until both are at most this many pixels, and at least once."""


class EncoderDecoder(NamedTuple):
    """`encoder`: images (N, C·H·W) → features (N, F); `decoder`: latents (N, D) → logits (N, …) of C·H·W values."""

    encoder: nn.Sequential
    features: int
    decoder: nn.Sequential


def mlp(config: VAEConfig) -> EncoderDecoder:
    """Build a perceptron whose hidden layers, `hidden_layers` on each side, all have `hidden_dim` units."""
    pixels, hidden, slope = config.pixels, config.hidden_dim, config.negative_slope

    def layers(inputs: int) -> list[nn.Module]:
        widths = [inputs] + [hidden] * config.hidden_layers
        return [layer for width in widths[:-1] for layer in (nn.Linear(width, hidden), nn.LeakyReLU(slope))]

    decoder = nn.Sequential(*layers(config.latent_dim), nn.Linear(hidden, pixels))
    return EncoderDecoder(nn.Sequential(*layers(pixels)), hidden, decoder)


def conv(config: VAEConfig) -> EncoderDecoder:
    """Build strided convolutions down to a coarse map of `hidden_dim` channels, and transposed ones up again.

    Channels double as height and width halve, as in DCGAN (Radford et al. 2016). On each side a hidden layer of
    4·`hidden_dim` units connects the map to the latent. Any height and width are restored exactly.
    """
    channels, height, width = config.image_shape
    sizes = [(height, width)]
    while len(sizes) == 1 or max(sizes[-1]) > MIN_FEATURE_SIZE:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    stages = len(sizes) - 1
    widths = [max(8, config.hidden_dim >> (stages - 1 - stage)) for stage in range(stages)]
    coarse, hidden, slope = widths[-1] * sizes[-1][0] * sizes[-1][1], 4 * config.hidden_dim, config.negative_slope

    down: list[nn.Module] = [nn.Unflatten(1, config.image_shape)]
    for source, target in zip([channels, *widths], widths, strict=False):
        down += [nn.Conv2d(source, target, 3, stride=2, padding=1), nn.LeakyReLU(slope)]
    down += [nn.Flatten(), nn.Linear(coarse, hidden), nn.LeakyReLU(slope)]

    up: list[nn.Module] = [nn.Linear(config.latent_dim, hidden), nn.LeakyReLU(slope)]
    up += [nn.Linear(hidden, coarse), nn.LeakyReLU(slope), nn.Unflatten(1, (widths[-1], *sizes[-1]))]
    for stage in reversed(range(stages)):
        kernel = (4 - sizes[stage][0] % 2, 4 - sizes[stage][1] % 2)  # n → 2n with kernel 4, n → 2n − 1 with kernel 3
        target = widths[max(stage - 1, 0)]
        up += [nn.ConvTranspose2d(widths[stage], target, kernel, stride=2, padding=1), nn.LeakyReLU(slope)]
    up.append(nn.Conv2d(widths[0], channels, 3, padding=1))
    return EncoderDecoder(nn.Sequential(*down), hidden, nn.Sequential(*up))


ARCHITECTURES: dict[str, Callable[[VAEConfig], EncoderDecoder]] = {"mlp": mlp, "conv": conv}
