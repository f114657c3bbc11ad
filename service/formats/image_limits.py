"""How much work a picture may make beyond its bytes and pixels.

Pillow takes whatever the formats allow: eleven million empty parts in 32 MB, ten thousand scans over the same pixels.
No picture that was made to be looked at comes near these limits.
"""

from __future__ import annotations

import io
import re

from PIL import Image
from PIL.ImageFile import ImageFile

from service.errors import TooLarge

HEADER_READS, READS = 10_000, 50_000
"""Pillow reads each part of a file by itself, in Python: so often for its header, and so often for its pixels."""
SIDE = 65_535
"""Pixels of a side, the most that JPEG and GIF know; a row costs more than its pixels."""
RUN_PIXELS = 2**20
"""Pixels of a run-length encoded BMP, which Pillow decodes in Python."""
PNG_PIXEL_BYTES = 9
"""Of a pixel at most, 16 bits in each of four channels; zlib's blocks may be empty, and take as long."""
WEBP_PIXELS = 2**23
"""Pixels of a WebP: Pillow copies them without releasing Python's lock, 10 ms a million, and all threads wait."""
SCANS, SEGMENTS = 50, 1000
"""Of a JPEG; a progressive one has a dozen scans, each of which goes over all of its pixels."""
EXIF_BYTES = 2**16
"""Of EXIF, more than a camera writes."""

PIECE = 2**20
"""Bytes of a JPEG that are searched in one go."""

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


class Stream(io.BytesIO):
    """A file in memory that cannot be read for ever."""

    reads_left = HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """As often as may be; then OSError."""
        self.reads_left -= 1
        if self.reads_left < 0:
            raise OSError("It is in too many parts.")
        return super().read(size)


def check_pixels(image: ImageFile, body: bytes, name: str) -> None:
    """Before the pixels are decoded: raise TooLarge where these are few and their decoding long."""
    size = f"{image.width}×{image.height}"
    pixels = image.width * image.height
    if max(image.size) > SIDE:
        raise TooLarge(f"{name} is an image of {size} pixels; sides of at most {SIDE} are taken.")
    if image.tile and image.tile[0].codec_name == "bmp_rle" and pixels > RUN_PIXELS:
        raise TooLarge(f"{name} is a run-length encoded BMP of {size} pixels; at most {RUN_PIXELS} are taken.")
    if image.format == "PNG" and len(body) > PNG_PIXEL_BYTES * pixels + PIECE:
        raise TooLarge(f"{name} is a PNG of {len(body)} bytes for {size} pixels.")
    if image.format == "WEBP" and pixels > WEBP_PIXELS:
        raise TooLarge(f"{name} is a WebP of {size} pixels; at most {WEBP_PIXELS} are taken. Send it as a JPEG.")
    if image.format == "JPEG" and _is_long(body):
        raise TooLarge(f"{name} is a JPEG of more than {SCANS} scans or {SEGMENTS} segments.")


def check_exif(image: Image.Image, name: str) -> None:
    """Raise TooLarge for more EXIF than a camera writes."""
    if len(image.info.get("exif", b"")) > EXIF_BYTES:
        raise TooLarge(f"{name} has more than {EXIF_BYTES} bytes of EXIF.")


def _is_long(jpeg: bytes) -> bool:
    """Look at the markers up to the end of the image (ITU-T T.81, annex B)."""
    scans = position = 0
    for _ in range(SEGMENTS):
        marker = _next_marker(jpeg, position)
        if marker is None or marker[0] == b"\xff\xd9":
            return False
        scans += marker[0] == b"\xff\xda"
        if scans > SCANS:
            return True
        position = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    return True


def _next_marker(jpeg: bytes, position: int) -> re.Match[bytes] | None:
    """Search in pieces, between which other threads may run."""
    pieces = (_MARKER.search(jpeg, start, start + PIECE + 1) for start in range(position, len(jpeg), PIECE))
    return next(filter(None, pieces), None)
