"""How a diffusion model's latents differ from those of its autoencoder. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Normalisation:
    """A diffusion model's latents are (z − mean)·scale, per channel, of the autoencoder's latents z.

    With a patch size p, each p×p patch of z becomes one position first: C' channels at h×w are C'·p² at h/p×w/p. These
    models are Flux 2's; `mean` and `scale` are per channel of the patches.
    """

    mean: FloatArray | float = 0.0
    """(C'·p²,), or a number: the same for all channels."""
    scale: FloatArray | float = 1.0
    """As `mean`, positive."""
    patch_size: int = 1
    divides: bool = False
    """`normalise` gives (z − mean)/scale, as the pipelines of CogVideoX do where the configuration has
    `invert_scale_latents`; `denormalise` is the same."""

    def normalise(self, z: FloatArray) -> FloatArray:
        """Return the diffusion model's latents (N, C'·p², …, h/p, w/p) of an autoencoder's (N, C', …, h, w)."""
        z = self.patch(z)
        centred, scale = z - _per_channel(self.mean, z), _per_channel(self.scale, z)
        return centred / scale if self.divides else centred * scale

    def denormalise(self, latents: FloatArray) -> FloatArray:
        """Return the autoencoder's latents (N, C', …, h, w) of a diffusion model's (N, C'·p², …, h/p, w/p)."""
        z = latents / _per_channel(self.scale, latents) + _per_channel(self.mean, latents)
        return self.unpatch(z)

    def patch(self, z: FloatArray) -> FloatArray:
        """Make each p×p patch of maps (N, C', h, w) one position: (N, C'·p², h/p, w/p)."""
        if (p := self.patch_size) == 1:
            return z
        count, channels, height, width = z.shape
        patches = z.reshape(count, channels, height // p, p, width // p, p).transpose(0, 1, 3, 5, 2, 4)
        return patches.reshape(count, channels * p * p, height // p, width // p)

    def unpatch(self, patches: FloatArray) -> FloatArray:
        """Undo `patch`."""
        if (p := self.patch_size) == 1:
            return patches
        count, channels, height, width = patches.shape
        z = patches.reshape(count, channels // (p * p), p, p, height, width).transpose(0, 1, 4, 2, 5, 3)
        return z.reshape(count, channels // (p * p), height * p, width * p)


def _per_channel(values: FloatArray | float, z: FloatArray) -> FloatArray | float:
    return values if isinstance(values, float) else values.reshape(-1, *[1] * (z.ndim - 2))
