"""The smallest batch size at which the result of a row does not depend on the number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from vae.config import AutoencoderKLConfig, VAEConfig

COMPARED_ROWS = 64
"""Most rows of the batches that are compared at the start to find the least rows."""
LEAST_ROWS = (1, 2, 4, 8, 16)
"""Sizes to which smaller batches may be padded; BLAS uses other kernels for few rows, whose last bits differ."""


@np.errstate(all="ignore")
def find_least_rows(
    reconstruct: Callable[..., tuple[npt.NDArray[Any], ...]], config: VAEConfig | AutoencoderKLConfig, limit: int
) -> int:
    """Find the smallest size from which on batches of up to `limit` rows give a row the same bits on this machine.

    `reconstruct` takes images (N, C, H, W) and noise (N, …), and returns arrays of N rows.
    """
    most = min(limit, COMPARED_ROWS)
    generator = np.random.default_rng(0)
    images = generator.random((most, *config.image_shape), np.float32)
    noise = generator.standard_normal((most, *config.latent_shape), np.float32)
    whole = reconstruct(images, noise)

    def is_same(rows: int) -> bool:
        return all(map(np.array_equal, reconstruct(images[:rows], noise[:rows]), (array[:rows] for array in whole)))

    for least in LEAST_ROWS:
        sizes = {*range(least, least + 4), *range(2 * least, most, most // 4 + 1)}
        if all(is_same(rows) for rows in sorted(sizes) if rows <= most):
            return least
    return limit
