"""Seeded noise, the same on every machine and in every batch."""

import secrets

import numpy as np
import numpy.typing as npt


def choose_seed() -> int:
    """Choose a seed, small enough to be typed and exact in JavaScript."""
    return secrets.randbits(32)


def standard_normal(seed: int, count: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Draw N(0, I), (count, *shape); the first rows are the same for every `count`."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal((count, *shape), np.float32)
