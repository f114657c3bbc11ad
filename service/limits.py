"""Size limits; a request over one of them gets status 413."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from reprlib import repr as brief

from service.errors import TooLarge


@dataclass(frozen=True)
class Limits:
    """Largest body in bytes, picture in pixels, and batch in items."""

    body: int
    image_pixels: int
    batch: int

    def check_batch(self, count: int, what: str = "items") -> None:
        """Raise TooLarge for more images or latents than one request may have."""
        if count > self.batch:
            raise TooLarge(f"The request asks for {brief(count)} {what}; at most {self.batch} are allowed.")

    def check_form(self, pixels: int) -> None:
        """Raise TooLarge where the pictures of a form have more pixels than one request may have."""
        if pixels > self.image_pixels:
            raise TooLarge(f"The form's pictures have {pixels} pixels; at most {self.image_pixels} are allowed.")

    def check_pixels(self, count: int, shape: tuple[int, ...], what: str = "The images") -> None:
        """Raise TooLarge where `count` images of `shape` (C, …, H, W) have more pixels than one request may have."""
        if (pixels := count * prod(shape[1:])) > self.image_pixels:
            raise TooLarge(f"{what} would have {pixels} pixels; at most {self.image_pixels} are allowed.")
