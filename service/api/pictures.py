"""Pictures → arrays, for all routes: within the limits, and beside the event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from pictures.orientation import upright_size
from service.api.offloading import OPENING_S, PIXEL_S
from service.api.request import Request
from service.formats.images import memory_of, open_image, open_plain_png, to_array
from service.limits import Limits
from vae.metadata import Fit

FloatArray = npt.NDArray[np.float32]
Shape = tuple[int, ...]
"""(C, H, W)"""
Result = TypeVar("Result")

SLICE_S = 0.05
"""Seconds after which the pictures of a form yield their thread to other requests."""


def read_plain_png(body: bytes, limits: Limits, shape: Shape, *, fit: Fit, invert: bool) -> FloatArray | None:
    """Read a PNG as (1, C, H, W) in [0, 1]; return None unless `open_plain_png` can open it."""
    image = open_plain_png(body, limits.image_pixels)
    if image is None:
        return None
    return to_array(image, shape, fit=fit, invert=invert)[np.newaxis]


class PictureReader:
    """Reads pictures for one request."""

    def __init__(
        self, request: Request, limits: Limits, shape_for: Callable[[int, int], Shape], *, fit: Fit, invert: bool
    ) -> None:
        """`shape_for` maps the height and width of a picture to the shape (C, H, W) of its array."""
        self._request = request
        self._limits = limits
        self._shape_for = shape_for
        self._fit: Fit = fit
        self._invert = invert

    async def read(self, body: bytes) -> FloatArray:
        """Read a picture as (1, C, H, W) in [0, 1]; raises UnreadableBody, TooLarge or Unavailable."""
        if image := open_plain_png(body, self._limits.image_pixels):
            width, height = image.size
            shape = self._shape_for(height, width)
            values = prod(shape)
            self._request.reserve(4 * values)
            seconds = (width * height + values) * PIXEL_S
            return (await self._request.run(seconds, self._convert, image, shape, "The body"))[np.newaxis]
        opened = await self._request.run(OPENING_S, self._open_or_decode, body)
        if isinstance(opened, np.ndarray):
            return opened[np.newaxis]
        return (await self._request.run(self._seconds(opened), self._decode, opened, body, "The body"))[np.newaxis]

    async def read_all(self, pictures: Sequence[tuple[str, bytes]]) -> FloatArray:
        """Read pictures with their names for error messages as (N, C, H, W) in [0, 1]."""
        shape = self._shape_for(0, 0)
        self._limits.check_pixels(len(pictures), shape)
        self._request.reserve(4 * len(pictures) * prod(shape))
        sizes = await self._in_slices(OPENING_S, (self._size(name, body) for name, body in pictures))
        self._limits.check_form(sum(sizes))
        rows = np.empty((len(pictures), *shape), np.float32)

        def fill() -> Iterator[None]:
            for row, (name, body) in zip(rows, pictures, strict=True):
                row[:] = self._decode(self._open(body, name), body, name)
                yield

        await self._in_slices(max(OPENING_S, max(sizes) * PIXEL_S), fill())
        return rows

    def _open(self, body: bytes, name: str) -> Image:
        with self._request.memory.hold(2 * len(body)):  # a copy without metadata, and the decoder's
            return open_image(body, self._limits.image_pixels, name)

    def _open_or_decode(self, body: bytes) -> Image | FloatArray:
        """Return the picture's array, or the opened picture if decoding it takes long."""
        image = self._open(body, "The body")
        self._request.reserve(4 * prod(self._shape_for(*upright_size(image))))
        return image if self._seconds(image) > OPENING_S else self._decode(image, body, "The body")

    def _size(self, name: str, body: bytes) -> int:
        return prod(self._open(body, name).size)  # an open picture may hold much memory: it is not kept

    def _seconds(self, image: Image) -> float:
        pixels = prod(image.size) / (2 if image.format == "JPEG" else 1)  # the decoder scales it down
        return (pixels + prod(self._shape_for(*upright_size(image)))) * PIXEL_S

    def _decode(self, image: Image, body: bytes, name: str) -> FloatArray:
        shape = self._shape_for(*upright_size(image))
        with self._request.memory.hold(memory_of(image, shape, body)):
            return self._convert(image, shape, name)

    def _convert(self, image: Image, shape: Shape, name: str) -> FloatArray:
        return to_array(image, shape, fit=self._fit, invert=self._invert, name=name)

    async def _in_slices(self, seconds: float, results: Iterator[Result]) -> list[Result]:
        """Compute all results in a thread, in slices of time between which other requests use it.

        A thread cannot be cancelled, but a request that has ended gets no more slices. `seconds` estimates one result.
        """
        gathered: list[Result] = []

        def run_slice() -> bool:
            over = time.monotonic() + SLICE_S
            for result in results:
                gathered.append(result)
                if time.monotonic() > over:
                    return True
            return False

        while await self._request.run(seconds, run_slice):
            pass
        return gathered
