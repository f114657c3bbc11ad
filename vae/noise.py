"""The noise of posterior samples: one definition for every estimate of an image's ELBO. Does not import torch."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

DRAWS, SEED = 10, 0
"""Posterior samples per image and the seed of their noise: what metrics and scores use by default."""
SEED_LIMIT = 2**64
"""Seeds are less."""


def image_noise(images: npt.NDArray[Any], samples: int, shape: tuple[int, ...], seed: int) -> npt.NDArray[np.float32]:
    """Draw from N(0, I) for posterior samples of images.

    The noise of an image depends on its pixels as 8 bits and on the seed alone, so that an estimate from it is the same
    in any batch, order and process. Images with different pixels have independent noise: the key of Philox, a
    generator made for parallel streams (Salmon et al. 2011), is their hash.

    Args:
        images: Images (N, C, H, W), uint8 or in [0, 1].
        samples: Samples per image, K; the first of them are the same for every K.
        shape: Shape of a latent.
        seed: From 0 to 2⁶⁴ − 1.

    Returns:
        Noise (N, K, *shape), float32.

    """
    pixels = images if images.dtype == np.uint8 else np.rint(images * np.float32(255)).astype(np.uint8)
    noise = np.empty((len(pixels), samples, *shape), np.float32)
    bits = np.random.Philox(key=0)
    generator = np.random.Generator(bits)
    state = bits.state
    salt = seed.to_bytes(8, "little")
    for image, out in zip(np.ascontiguousarray(pixels), noise, strict=True):
        digest = blake2b(image, digest_size=16, salt=salt).digest()
        state["state"]["key"] = np.frombuffer(digest, "<u8").astype(np.uint64)
        bits.state = state  # a new generator would take three times as long
        generator.standard_normal(out=out, dtype=np.float32)
    return noise
