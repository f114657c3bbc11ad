"""Errors of pictures."""

from __future__ import annotations


class PictureError(ValueError):
    """A file that is no picture of a known format, or a damaged one; the message is a sentence."""


class PictureTooLarge(PictureError):
    """A picture that would take too long or too much memory to read."""
