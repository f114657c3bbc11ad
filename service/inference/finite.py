"""Whether results are finite numbers."""

from __future__ import annotations

from math import isfinite

import numpy as np

from service.inference.backend import Arrays, FloatArray


class NonFiniteOutput(Exception):
    """The model computed a number that is not finite."""


def all_finite(arrays: Arrays) -> bool:
    """Return whether all numbers of float arrays are finite; uint8 is skipped."""
    return all(array.dtype == np.uint8 or _is_finite(array) for array in arrays)


def _is_finite(array: FloatArray) -> bool:
    """A finite sum has finite terms; a sum of finite terms may overflow, so that then each is looked at."""
    if array.ndim == 1:
        return all(map(isfinite, array.tolist()))
    return isfinite(array.sum()) or bool(np.isfinite(array).all())
