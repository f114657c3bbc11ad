"""Layers → torch modules."""

from __future__ import annotations

from torch import Tensor, nn

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
    SiLU,
    Unflatten,
    Upsample,
)


class ResidualBlock(nn.Sequential):
    """x → x + its modules' result."""

    def forward(self, x: Tensor) -> Tensor:
        """Add the result to `x`."""
        change = x
        for each in self:
            change = each(change)
        return x + change


def sequential(layers: Layers) -> nn.Sequential:
    """Create the modules of `layers`, with torch's initialization."""
    return nn.Sequential(*map(_module, layers))


def head(layer: Linear | Conv2d) -> nn.Linear | nn.Conv2d:
    """Create the module of a head, with torch's initialization."""
    match layer:
        case Linear(inputs, outputs):
            return nn.Linear(inputs, outputs)
        case Conv2d(inputs, outputs, kernel_size, stride, padding):
            return nn.Conv2d(inputs, outputs, kernel_size, stride, padding)


def _module(layer: Layer) -> nn.Module:  # noqa: PLR0911 - a case for each layer
    match layer:
        case Linear() | Conv2d():
            return head(layer)
        case ConvTranspose2d(inputs, outputs, kernel_size, stride, padding):
            return nn.ConvTranspose2d(inputs, outputs, kernel_size, stride, padding)
        case GroupNorm(groups, channels):
            return nn.GroupNorm(groups, channels)
        case LeakyReLU(negative_slope):
            return nn.LeakyReLU(negative_slope)
        case SiLU():
            return nn.SiLU()
        case Upsample(size):
            return nn.Upsample(size)
        case Residual(inner):
            return ResidualBlock(*map(_module, inner))
        case Flatten():
            return nn.Flatten()
        case Unflatten(shape):
            return nn.Unflatten(1, shape)
