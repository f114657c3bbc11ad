"""Inputs of a model and what torch computed from them, kept in its checkpoint to check whatever computes it later."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vae.config import VAEConfig

FloatArray = npt.NDArray[np.float32]

COUNT = 2
"""Probes in a checkpoint: a batch, and small enough to be metadata."""


@dataclass(frozen=True)
class Probes:
    """Inputs `images` (n, C, H, W) in [0, 1] and `z` (n, D), and torch's results for them; all float32."""

    images: FloatArray
    z: FloatArray
    mean: FloatArray
    """Of q(z|x) of `images`, (n, D)."""
    log_variance: FloatArray
    """Of q(z|x) of `images`, (n, D)."""
    decoded: FloatArray
    """Images decoded from `z`, (n, C, H, W) in [0, 1]."""

    @classmethod
    def compute(
        cls,
        config: VAEConfig,
        encode: Callable[[FloatArray], tuple[FloatArray, FloatArray]],
        decode: Callable[[FloatArray], FloatArray],
    ) -> Probes:
        """Draw inputs and compute their results."""
        random = np.random.default_rng(0)
        images = random.random((COUNT, *config.image_shape), np.float32)
        z = random.standard_normal((COUNT, *config.latent_shape), np.float32)
        return cls(images, z, *encode(images), decode(z))

    @classmethod
    def parse(cls, text: str, config: VAEConfig) -> Probes:
        """Read what `str` gives; raises ValueError where it is damaged or of another model."""
        try:
            probes = cls(**load(base64.b64decode(text, validate=True)))
        except (SafetensorError, TypeError, KeyError) as error:
            raise ValueError(str(error)) from error
        for field in fields(cls):
            shape = config.image_shape if field.name in ("images", "decoded") else config.latent_shape
            array = getattr(probes, field.name)
            if array.dtype != np.float32 or array.shape != (len(probes.z), *shape):
                raise ValueError(f"{field.name} has the wrong shape or dtype")
        return probes

    def __str__(self) -> str:
        """Return them as text: a safetensors file in base64."""
        arrays = {name: np.ascontiguousarray(array) for name, array in asdict(self).items()}  # save ignores strides
        return base64.b64encode(save(arrays)).decode()

    def agree(
        self,
        encode: Callable[[FloatArray], tuple[FloatArray, FloatArray]],
        decode: Callable[[FloatArray], FloatArray],
        tolerance: float,
    ) -> bool:
        """Return whether results differ from torch's by at most `tolerance`, absolute plus relative to the value."""
        results = (*encode(self.images), decode(self.z))
        expected = (self.mean, self.log_variance, self.decoded)
        return all(
            np.allclose(result, each, tolerance, tolerance, equal_nan=True)
            for result, each in zip(results, expected, strict=True)
        )
