"""Layers → torch modules."""

from __future__ import annotations

from torch import nn

from vae.layers import Conv2d, ConvTranspose2d, Flatten, Layer, Layers, LeakyReLU, Linear, Unflatten


def sequential(layers: Layers) -> nn.Sequential:
    """Create the modules of `layers`, with torch's initialization."""
    return nn.Sequential(*map(_module, layers))


def _module(layer: Layer) -> nn.Module:
    match layer:
        case Linear(inputs, outputs):
            return nn.Linear(inputs, outputs)
        case Conv2d(inputs, outputs, kernel_size, stride, padding):
            return nn.Conv2d(inputs, outputs, kernel_size, stride, padding)
        case ConvTranspose2d(inputs, outputs, kernel_size, stride, padding):
            return nn.ConvTranspose2d(inputs, outputs, kernel_size, stride, padding)
        case LeakyReLU(negative_slope):
            return nn.LeakyReLU(negative_slope)
        case Flatten():
            return nn.Flatten()
        case Unflatten(shape):
            return nn.Unflatten(1, shape)
