"""What the formats of arrays have in common: several arrays under names, or one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import InvalidInput, Problem

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Format:
    """Bytes ↔ arrays.

    `read` gives the array of a body, uint8 or floating: that of the name it is told, or the only one. `write` takes
    named arrays (N, …); where its second argument is true N is 1 and left out, unless `is_table`: a table has rows.
    """

    media_type: str
    read: Callable[[bytes, str], Array]
    write: Callable[[Mapping[str, Array], bool], bytes]
    is_table: bool = False
    copies: int = 0
    """Of a body, that `read` makes at most."""


def choose(names: Sequence[str], wanted: str) -> str:
    """The name of the array that is meant."""
    if len(names) == 1 or wanted in names:
        return wanted if wanted in names else names[0]
    raise wrong(f"The body holds {len(names)} arrays; a single one, or one named {wanted!r}, is wanted.")


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Raise InvalidInput for an array of anything else than uint8 or floating numbers."""
    if dtype != np.uint8 and dtype.kind != "f":
        raise wrong(f"The array's dtype is {dtype}; uint8 or a floating one is wanted.")


def wrong(problem: str) -> InvalidInput:
    """A problem of the body as a whole."""
    return InvalidInput(Problem("body", "", problem))
