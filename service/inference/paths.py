"""Paths through the latent space."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def interpolate(start: npt.ArrayLike, stop: npt.ArrayLike, steps: int, spherical: bool) -> FloatArray:
    """Latents (steps, …) from `start` to `stop`, both included.

    Spherical: along the great arc (Shoemake 1985), as White 2016 (arXiv:1609.04468) advises for Gaussian latents; along
    the straight line if the two are parallel or one is zero, as then no arc is defined.
    """
    a, b = np.array(start, np.float64).ravel(), np.array(stop, np.float64).ravel()
    shape = steps, *np.shape(start)
    t = np.linspace(0, 1, steps)[:, None]
    if spherical and (norms := np.linalg.norm(a) * np.linalg.norm(b)) > 0:
        angle = np.arccos(np.clip(a @ b / norms, -1, 1))
        if 1e-6 < angle < np.pi - 1e-6:
            arc = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
            return np.asarray(arc, np.float32).reshape(shape)
    return np.asarray((1 - t) * a + t * b, np.float32).reshape(shape)


def traverse(at: Sequence[float], dimensions: Sequence[int], low: float, high: float, steps: int) -> FloatArray:
    """Latents around `at` with one or two dimensions set to `steps` values from `low` to `high`.

    (steps, D) for one dimension. For two (steps², D), row by row of a grid: the first dimension runs from left to
    right, the second from top to bottom.
    """
    values = np.linspace(low, high, steps, dtype=np.float32)
    z = np.tile(np.array(at, np.float32), (steps ** len(dimensions), 1))
    z[:, dimensions[0]] = np.tile(values, len(z) // steps)
    if len(dimensions) == 2:
        z[:, dimensions[1]] = np.repeat(values, steps)
    return z
