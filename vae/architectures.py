"""Networks of the architectures, as layers: encoders without their two heads, decoders without the final sigmoid.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vae.config import VAEConfig
from vae.layers import Conv2d, ConvTranspose2d, Flatten, Layer, Layers, LeakyReLU, Linear, Shapes, Unflatten

MIN_FEATURE_SIZE = 4
"""A convolutional encoder halves height and width until both are at most this many pixels, and at least once."""


class Network(NamedTuple):
    """The layers of a VAE, without the two heads of the encoder, which are one linear layer each."""

    encoder: Layers
    """Images (N, C·H·W) → features (N, F)."""
    features: int
    """F."""
    decoder: Layers
    """Latents (N, D) → logits (N, …) of C·H·W values."""


def network(config: VAEConfig) -> Network:
    """Return the network that `config` describes."""
    return ARCHITECTURES[config.architecture](config)


def tensor_shapes(config: VAEConfig) -> Shapes:
    """Return the shapes of all tensors, by the names that they have in a state_dict: `encoder.0.weight` and so on."""
    encoder, features, decoder = network(config)
    head = Linear(features, config.latent_dim)
    parts: dict[str, Layer] = {"mean_layer": head, "log_variance_layer": head}
    for name, layers in (("encoder", encoder), ("decoder", decoder)):
        parts |= {f"{name}.{index}": layer for index, layer in enumerate(layers)}
    return {f"{part}.{name}": shape for part, layer in parts.items() for name, shape in layer.shapes.items()}


def mlp(config: VAEConfig) -> Network:
    """Return a perceptron whose hidden layers, `hidden_layers` on each side, all have `hidden_dim` units."""
    pixels, hidden, slope = config.pixels, config.hidden_dim, config.negative_slope

    def layers(inputs: int) -> list[Layer]:
        widths = [inputs] + [hidden] * config.hidden_layers
        return [layer for width in widths[:-1] for layer in (Linear(width, hidden), LeakyReLU(slope))]

    return Network(tuple(layers(pixels)), hidden, (*layers(config.latent_dim), Linear(hidden, pixels)))


def conv(config: VAEConfig) -> Network:
    """Return strided convolutions down to a coarse map of `hidden_dim` channels, and transposed ones up again.

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
    return Network(tuple(down), hidden, tuple(up))


ARCHITECTURES: dict[str, Callable[[VAEConfig], Network]] = {"mlp": mlp, "conv": conv}
