"""The interface of array formats: one array, or several with names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import InvalidInput, Problem

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Format:
    """An array format.

    `read` returns an array of a body, uint8 or floating: the one with the given name, or the only one. `write` takes
    named arrays (N, …); if its second argument is true, N is 1 and is left out, except in tables.
    """

    media_type: str
    read: Callable[[bytes, str], Array]
    write: Callable[[Mapping[str, Array], bool], bytes]
    is_table: bool = False
    """Whether the format always has rows."""
    copies: int = 0
    """Copies of a body that `read` makes at most."""


def choose(names: Sequence[str], expected: str) -> str:
    """Return `expected`, or the name of the only array; raises InvalidInput for several others."""
    if len(names) == 1 or expected in names:
        return expected if expected in names else names[0]
    raise wrong(f"The body holds {len(names)} arrays; a single one, or one named {expected!r}, is expected.")


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Raise InvalidInput unless `dtype` is uint8 or floating."""
    if dtype != np.uint8 and dtype.kind != "f":
        raise wrong(f"The array's dtype is {dtype}; uint8 or a floating one is expected.")


def wrong(problem: str) -> InvalidInput:
    """Return the error for a body that is invalid as a whole."""
    return InvalidInput(Problem("body", "", problem))
