"""Split many items into requests of limited size, and show a progress bar."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vae_client.inputs import is_picture, is_tensor
from vae_client.optional import needs

T = TypeVar("T")

BATCH_BYTES = 8 * 2**20
"""Limit of one request's items, in bytes: a quarter of the service's default body limit."""


def check_bounds(size: int, in_flight: int) -> None:
    """Raise ValueError unless both are positive: with 0, `map` would never end."""
    for name, value in (("size", size), ("in_flight", in_flight)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")


def split(items: Iterable[Any], size: int) -> Iterator[Any]:
    """Yield batches, in order, of at most `size` items and BATCH_BYTES; a larger item is a batch of its own.

    An array or a tensor (N, …) is sliced along N without a copy; other iterables are read into lists as needed. Images
    (N, H, W) become (N, 1, H, W): a last batch of (1, H, W) would be taken for a single image.
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
        item_bytes = _size_in_bytes(item)
        if batch and (len(batch) >= size or total + item_bytes > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += item_bytes
    if batch:
        yield batch


@contextmanager
def progress_bar(items: Iterable[Any], *, shown: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function that takes the number of items just completed."""
    if not shown:
        yield lambda _: None
        return
    with needs("tqdm", "progress=True", "'vae-client[progress]'"):
        from tqdm.auto import tqdm  # noqa: PLC0415

    with tqdm(total=len(items) if isinstance(items, Sized) else None, unit=" items") as bar:
        yield bar.update


def map_threads(
    call: Callable[[Any], T], items: Iterable[Any], *, size: int, in_flight: int, progress: bool
) -> Iterator[T]:
    """Yield the results of `call` for batches of `items`, in order; `in_flight` threads call it at the same time."""
    check_bounds(size, in_flight)
    pending: deque[tuple[int, Future[T]]] = deque()

    def next_result() -> T:
        count, future = pending.popleft()
        result = future.result()
        advance(count)
        return result

    with progress_bar(items, shown=progress) as advance, ThreadPoolExecutor(in_flight) as pool:
        try:
            for batch in split(items, size):
                pending.append((len(batch), pool.submit(call, batch)))
                if len(pending) == in_flight:
                    yield next_result()
            while pending:
                yield next_result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _size_in_bytes(item: Any) -> int:
    """Return about how many bytes an item takes in a request."""
    if isinstance(item, np.ndarray) or is_tensor(item):
        return int(item.nbytes)
    if isinstance(item, bytes | bytearray | memoryview):
        return len(item)
    if isinstance(item, str | os.PathLike):
        return Path(item).stat().st_size
    if is_picture(item):
        return item.width * item.height * len(item.getbands())
    return 0
