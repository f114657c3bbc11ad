"""The one reader of pictures, for every route: bytes → arrays, within the limits, off the event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from pictures.orientation import upright_size
from service.api.offloading import INLINE_S, OPENING_S, PIXEL_S
from service.api.request import Request
from service.formats.images import memory_of, open_image, open_plain_png, to_array
from service.limits import Limits
from vae.metadata import Fit

FloatArray = npt.NDArray[np.float32]
Shape = tuple[int, int, int]
Result = TypeVar("Result")

TURN_S = 0.05
"""How long the pictures of a form may keep a thread that others wait for."""


class PictureReader:
    """Reads pictures for one request."""

    def __init__(
        self, request: Request, limits: Limits, shape_for: Callable[[int, int], Shape], *, fit: Fit, invert: bool
    ) -> None:
        """`shape_for` gives the shape (C, H, W) to which a picture of a height and a width is brought."""
        self._call = request
        self._limits = limits
        self._shape_for = shape_for
        self._fit: Fit = fit
        self._invert = invert

    async def read(self, body: bytes) -> FloatArray:
        """One picture, (1, C, H, W) in [0, 1]; raises UnreadableBody, TooLarge or Unavailable."""
        if image := open_plain_png(body, self._limits.image_pixels):
            width, height = image.size
            shape = self._shape_for(height, width)
            values = prod(shape)
            self._call.reserve(4 * values)
            seconds = (width * height + values) * PIXEL_S
            if seconds <= INLINE_S:  # as `run` does, without a coroutine
                return self._convert(image, shape, "The body")[np.newaxis]
            return (await self._call.run(seconds, self._convert, image, shape, "The body"))[np.newaxis]
        opened = await self._call.run(OPENING_S, self._open_or_decode, body)
        if isinstance(opened, np.ndarray):
            return opened[np.newaxis]
        return (await self._call.run(self._seconds(opened), self._decode, opened, body, "The body"))[np.newaxis]

    async def read_all(self, pictures: Sequence[tuple[str, bytes]]) -> FloatArray:
        """Several pictures under names for error messages, (N, C, H, W) in [0, 1]."""
        shape = self._shape_for(0, 0)
        self._limits.check_pixels(len(pictures), shape)
        self._call.reserve(4 * len(pictures) * prod(shape))
        sizes = await self._in_turns(OPENING_S, (self._size(name, body) for name, body in pictures))
        self._limits.check_form(sum(sizes))
        rows = np.empty((len(pictures), *shape), np.float32)

        def fill() -> Iterator[None]:
            for row, (name, body) in zip(rows, pictures, strict=True):
                row[:] = self._decode(self._open(body, name), body, name)
                yield

        await self._in_turns(max(OPENING_S, max(sizes) * PIXEL_S), fill())
        return rows

    def _open(self, body: bytes, name: str) -> Image:
        with self._call.memory.hold(2 * len(body)):  # without its metadata, and as a decoder reads it
            return open_image(body, self._limits.image_pixels, name)

    def _open_or_decode(self, body: bytes) -> Image | FloatArray:
        """A picture's array, or what was opened of one that takes long."""
        image = self._open(body, "The body")
        self._call.reserve(4 * prod(self._shape_for(*upright_size(image))))
        return image if self._seconds(image) > OPENING_S else self._decode(image, body, "The body")

    def _size(self, name: str, body: bytes) -> int:
        return prod(self._open(body, name).size)  # what is opened is not kept: it holds as much as its header tells

    def _seconds(self, image: Image) -> float:
        pixels = prod(image.size) / (2 if image.format == "JPEG" else 1)  # it is decoded at a part of its size
        return (pixels + prod(self._shape_for(*upright_size(image)))) * PIXEL_S

    def _decode(self, image: Image, body: bytes, name: str) -> FloatArray:
        shape = self._shape_for(*upright_size(image))
        with self._call.memory.hold(memory_of(image, shape, body)):
            return self._convert(image, shape, name)

    def _convert(self, image: Image, shape: Shape, name: str) -> FloatArray:
        return to_array(image, shape, fit=self._fit, invert=self._invert, name=name)

    async def _in_turns(self, seconds: float, results: Iterator[Result]) -> list[Result]:
        """All results, in a thread that is left to others after each turn.

        Nobody can cancel a thread, but a request that has ended has no further turn. `seconds` estimates one result.
        """
        gathered: list[Result] = []

        def take_turn() -> bool:
            over = time.monotonic() + TURN_S
            for result in results:
                gathered.append(result)
                if time.monotonic() > over:
                    return True
            return False

        while await self._call.run(seconds, take_turn):
            pass
        return gathered
