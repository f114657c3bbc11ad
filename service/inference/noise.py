"""Random numbers: a seed gives the same noise on every machine, whatever else is computed."""

import secrets

import numpy as np
import numpy.typing as npt


def choose_seed() -> int:
    """Choose a seed for a request without one: 32 bits, which are short to type and exact in JavaScript."""
    return secrets.randbits(32)


def standard_normal(seed: int, count: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Draw from N(0, I): float32 (count, *shape), whose first rows are the same for every `count`."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal((count, *shape), np.float32)
