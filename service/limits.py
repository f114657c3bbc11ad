"""Size limits; a request above one is answered by 413."""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import repr as brief

from service.errors import TooLarge


@dataclass(frozen=True)
class Limits:
    """Bytes of a body, pixels of a picture, items of a batch."""

    body: int
    image_pixels: int
    batch: int

    def check_batch(self, count: int, what: str = "items") -> None:
        """Raise TooLarge where `count` images or latents are more than one request may hold."""
        if count > self.batch:
            raise TooLarge(f"{brief(count)} {what} are asked for in one request; at most {self.batch} are taken.")

    def check_form(self, pixels: int) -> None:
        """Raise TooLarge where the pictures of a form have more pixels than one request may hold."""
        if pixels > self.image_pixels:
            raise TooLarge(f"The form's pictures have {pixels} pixels; at most {self.image_pixels} are taken.")

    def check_pixels(self, count: int, shape: tuple[int, int, int], what: str = "The images") -> None:
        """Raise TooLarge where `count` images of `shape` (C, H, W) have more pixels than one request may hold."""
        if (pixels := count * shape[1] * shape[2]) > self.image_pixels:
            raise TooLarge(f"{what} would have {pixels} pixels; at most {self.image_pixels} are given.")
