"""Configurations of the models. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar, Literal, get_args

Architecture = Literal["mlp", "conv", "resnet"]
MIN_FEATURE_SIZE = 4
"""A convolutional encoder halves height and width until both are at most this many pixels, and at least once."""
Likelihood = Literal["bernoulli", "continuous-bernoulli", "gaussian", "logistic"]
Scale = Literal["model", "pixel"]
LOG_SCALE_BOUNDS = {"gaussian": (-6.0, 0.0), "logistic": (-7.0, 0.0)}
"""Likelihoods with a scale → the range of its log, for values in [0, 1].

Below it they are narrower than a grey level, whose log is −5.5, and a density would reward that without limit; −6 is
the bound of Rybkin et al. (2021). Above it they are wider than the range of the values.
"""


@dataclass(frozen=True)
class VAEConfig:
    """What a VAE is built from. The defaults are the article's: MNIST in three latent dimensions.

    Raises:
        ValueError: A field has no valid value; the message names it.

    """

    architecture: Architecture = "mlp"
    image_shape: tuple[int, int, int] = (1, 28, 28)
    """(C, H, W); C is 1 (grey) or 3 (RGB)."""
    hidden_dim: int = 392
    """Units of each hidden layer (mlp), channels of the coarsest feature map (conv, resnet)."""
    latent_dim: int = 3
    """Numbers in a latent, D; with a `latent_map` always C'·h·w."""
    hidden_layers: int = 2
    """Hidden layers of an mlp's encoder, and of its decoder, or residual blocks per resolution of a resnet: 1 to 100.
    More of them give a better ELBO."""
    negative_slope: float = 0.3
    """Slope of the leaky ReLU (Maas et al. 2013) for negative inputs (mlp, conv): 0 to 1."""
    latent_map: tuple[int, int, int] | None = None
    """(C', h, w) of latents that are maps (resnet): h×w is one of `feature_sizes`. None: latents are vectors."""
    likelihood: Likelihood = "bernoulli"
    """p(x|z); `vae.likelihoods` defines each."""
    scale: Scale = "model"
    """Scale of a gaussian or logistic likelihood: one parameter, or a value per pixel that the decoder computes."""

    is_video: ClassVar[bool] = False
    scaling_factor: ClassVar[float] = 1.0
    shift_factor: ClassVar[float] = 0.0
    """A latent diffusion model gets the latents as (z − shift_factor)·scaling_factor."""
    dtype: ClassVar[Literal["float32"]] = "float32"
    """In which the network computes."""

    def __post_init__(self) -> None:
        for name, kind in (("architecture", Architecture), ("likelihood", Likelihood), ("scale", Scale)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of: {known}.")
        shape = self.image_shape
        if len(shape) != 3 or any(type(size) is not int or size < 1 for size in shape) or shape[0] not in (1, 3):
            raise ValueError(f"image_shape is {shape!r}; it must be (C, H, W), positive, with C 1 or 3.")
        for name in ("hidden_dim", "latent_dim", "hidden_layers"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a positive integer.")
        if self.hidden_layers > 100:
            raise ValueError(f"hidden_layers is {self.hidden_layers}; it must be at most 100.")
        if not isinstance(self.negative_slope, float) or not 0 <= self.negative_slope <= 1:
            raise ValueError(f"negative_slope is {self.negative_slope!r}; it must be a number from 0 to 1.")
        if self.scale == "pixel" and self.likelihood not in LOG_SCALE_BOUNDS:
            raise ValueError(f"scale is 'pixel'; the likelihood {self.likelihood} has no scale: leave it at 'model'.")
        if self.latent_map is not None:
            self._check_latent_map(self.latent_map)
            object.__setattr__(self, "latent_dim", prod(self.latent_map))

    def _check_latent_map(self, latent_map: tuple[int, int, int]) -> None:
        if (
            type(latent_map) is not tuple
            or len(latent_map) != 3
            or any(type(size) is not int or size < 1 for size in latent_map)
        ):
            raise ValueError(f"latent_map is {latent_map!r}; it must be (C', h, w), positive.")
        if self.architecture != "resnet":
            raise ValueError(f"latent_map is for the architecture resnet; latents of {self.architecture} are vectors.")
        if latent_map[1:] not in self.feature_sizes:
            (_, height, width), sizes = self.image_shape, (f"{h}×{w}" for h, w in self.feature_sizes)
            raise ValueError(
                f"latent_map is {latent_map}; for images of {height}×{width} its height and width must be one of: "
                f"{', '.join(sizes)}."
            )

    @property
    def pixels(self) -> int:
        """Number of values in one image, C·H·W."""
        return prod(self.image_shape)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the decoder's output; (2·C, H, W) where its second half are log-scales of pixels."""
        channels, height, width = self.image_shape
        return (2 * channels if self.scale == "pixel" else channels), height, width

    @cached_property
    def feature_sizes(self) -> list[tuple[int, int]]:
        """Heights and widths of the feature maps of a convolutional encoder: each half of the last, rounded up."""
        _, *size = self.image_shape
        sizes: list[tuple[int, int]] = []
        while not sizes or max(sizes[-1]) > MIN_FEATURE_SIZE:
            size = [(side + 1) // 2 for side in size]
            sizes.append((size[0], size[1]))
        return sizes

    @cached_property
    def latent_shape(self) -> tuple[int, ...]:
        """(D,), or (C', h, w) where latents are maps."""
        return self.latent_map or (self.latent_dim,)

    def image_shape_of(self, latent_shape: tuple[int, ...]) -> tuple[int, int, int] | None:
        """Return the shape (C, H, W) of the image decoded from such a latent; None if it cannot be decoded."""
        return self.image_shape if latent_shape == self.latent_shape else None

    def latent_shape_of(self, _image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the latent that an image of an accepted shape is encoded to."""
        return self.latent_shape

    def accepts_shape(self, image_shape: tuple[int, ...]) -> bool:
        """Return whether an image of this shape can be encoded."""
        return image_shape == self.image_shape

    def image_shape_near(self, _height: int, _width: int) -> tuple[int, int, int]:
        """Return the shape (C, H, W) that a picture is brought to before it is encoded."""
        return self.image_shape
