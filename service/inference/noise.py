"""Random numbers: the same seed gives the same noise, whatever else is computed, wherever."""

import secrets

import numpy as np
import numpy.typing as npt


def choose_seed() -> int:
    """A seed for a caller who gave none; small enough to be typed, and exact in JavaScript."""
    return secrets.randbits(32)


def standard_normal(seed: int, count: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """N(0, I), (count, *shape); the first rows are the same for every `count`."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal((count, *shape), np.float32)
