"""Layers of a network as data: which there are, their sizes and the shapes of their tensors. Does not import torch.

They have the names, sizes and tensors of torch's modules, so that a checkpoint's tensors are those of its state_dict.
"""

from __future__ import annotations

from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]
"""Shapes of a layer's tensors by their names."""
Pair = tuple[int, int]


@dataclass(frozen=True)
class Linear:
    """(N, inputs) → (N, outputs)."""

    inputs: int
    outputs: int

    @property
    def shapes(self) -> Shapes:
        """Shapes of its tensors."""
        return {"weight": (self.outputs, self.inputs), "bias": (self.outputs,)}


@dataclass(frozen=True)
class _Convolution:
    inputs: int
    outputs: int
    kernel_size: Pair
    stride: int = 1
    padding: int = 0


class Conv2d(_Convolution):
    """(N, inputs, H, W) → (N, outputs, ⌊(H + 2·padding − kernel) / stride⌋ + 1, …)."""

    @property
    def shapes(self) -> Shapes:
        """Shapes of its tensors."""
        return {"weight": (self.outputs, self.inputs, *self.kernel_size), "bias": (self.outputs,)}


class ConvTranspose2d(_Convolution):
    """(N, inputs, H, W) → (N, outputs, (H − 1)·stride − 2·padding + kernel, …)."""

    @property
    def shapes(self) -> Shapes:
        """Shapes of its tensors."""
        return {"weight": (self.inputs, self.outputs, *self.kernel_size), "bias": (self.outputs,)}


@dataclass(frozen=True)
class LeakyReLU:
    """Multiplies negative values by `negative_slope` (Maas et al. 2013)."""

    negative_slope: float
    shapes = Shapes()


@dataclass(frozen=True)
class SiLU:
    """x·sigmoid(x) (Elfwing et al. 2018)."""

    shapes = Shapes()


@dataclass(frozen=True)
class GroupNorm:
    """Normalizes each group of channels of each image, (N, channels, H, W); ε is 1e-5 (Wu & He 2018)."""

    groups: int
    channels: int

    @property
    def shapes(self) -> Shapes:
        """Shapes of its tensors."""
        return {"weight": (self.channels,), "bias": (self.channels,)}


@dataclass(frozen=True)
class Upsample:
    """(N, C, H, W) → (N, C, *size), by the nearest neighbour."""

    size: Pair
    shapes = Shapes()


@dataclass(frozen=True)
class Residual:
    """x → x + layers(x) (He et al. 2016)."""

    layers: Layers

    @property
    def shapes(self) -> Shapes:
        """Shapes of the tensors of its layers, named `0.weight` and so on."""
        return layer_shapes(self.layers)


@dataclass(frozen=True)
class Flatten:
    """(N, …) → (N, the product of the others)."""

    shapes = Shapes()


@dataclass(frozen=True)
class Unflatten:
    """(N, the product of `shape`) → (N, *shape)."""

    shape: tuple[int, ...]
    shapes = Shapes()


Layer = Linear | Conv2d | ConvTranspose2d | GroupNorm | LeakyReLU | SiLU | Upsample | Residual | Flatten | Unflatten
Layers = tuple[Layer, ...]


def layer_shapes(layers: Layers) -> Shapes:
    """Return the shapes of all tensors of `layers`, named `0.weight` and so on."""
    return {f"{index}.{name}": shape for index, layer in enumerate(layers) for name, shape in layer.shapes.items()}
