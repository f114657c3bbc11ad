"""Many items in requests of a size that a service takes, and the bar that shows how far they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vae_client.inputs import is_picture, is_tensor

BATCH_BYTES = 8 * 2**20
"""Most bytes of one request, a quarter of what the service takes by default."""


def check_bounds(size: int, in_flight: int) -> None:
    """Raise ValueError for what would never come to an end."""
    for name, value in (("size", size), ("in_flight", in_flight)):
        if value < 1:
            raise ValueError(f"{name} is {value}; at least 1 is wanted.")


def split(items: Iterable[Any], size: int) -> Iterator[Any]:
    """Batches of at most `size` items and, but for a single item, BATCH_BYTES, in order.

    An array or a tensor (N, …) is cut along N, without a copy; of anything else lists are made, as it is read. Images
    (N, H, W) are given as (N, 1, H, W), since the last of them alone, (1, H, W), would be one image and no batch.
    """
    if isinstance(items, np.ndarray) or is_tensor(items):
        items = items[:, None] if items.ndim == 3 else items
        rows = max(1, min(size, BATCH_BYTES // max(1, items[:1].nbytes)))
        for start in range(0, len(items), rows):
            yield items[start : start + rows]
        return
    batch: list[Any] = []
    total = 0
    for item in items:
        weight = _bytes(item)
        if batch and (len(batch) >= size or total + weight > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += weight
    if batch:
        yield batch


@contextmanager
def progress_bar(items: Iterable[Any], *, shown: bool) -> Iterator[Callable[[int], object]]:
    """A function to be told how many items more are done."""
    if not shown:
        yield lambda _: None
        return
    from tqdm.auto import tqdm  # noqa: PLC0415

    with tqdm(total=len(items) if isinstance(items, Sized) else None, unit=" items") as bar:
        yield bar.update


def _bytes(item: Any) -> int:
    """About how many an item takes on the wire."""
    if isinstance(item, np.ndarray) or is_tensor(item):
        return int(item.nbytes)
    if isinstance(item, bytes | bytearray | memoryview):
        return len(item)
    if isinstance(item, str | os.PathLike):
        return Path(item).stat().st_size
    if is_picture(item):
        return item.width * item.height * len(item.getbands())
    return 0
