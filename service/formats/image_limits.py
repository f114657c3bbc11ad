"""Limits on the work of decoding a picture, beyond those on its bytes and pixels.

Pillow accepts what the formats allow, such as eleven million empty chunks in 32 MB, or ten thousand scans of the same
pixels. Ordinary pictures stay far below these limits.
"""

from __future__ import annotations

import io
import re

from PIL import Image
from PIL.ImageFile import ImageFile

from service.errors import TooLarge

HEADER_READS, READS = 10_000, 50_000
"""Most calls of `read` for the header and for the pixels; Pillow reads each part of a file by one call."""
SIDE = 65_535
"""Longest side in pixels, the maximum of JPEG and GIF, because each row has a cost of its own."""
RUN_PIXELS = 2**20
"""Most pixels of a run-length encoded BMP, which Pillow decodes in Python."""
PNG_PIXEL_BYTES = 9
"""Most bytes of a PNG per pixel: four channels of 16 bits and a margin. More are empty zlib blocks, which take time."""
WEBP_PIXELS = 2**23
"""Most pixels of a WebP: Pillow copies them while it holds the GIL, 10 ms per million."""
SCANS, SEGMENTS = 50, 1000
"""Most scans and segments of a JPEG; a progressive one has about a dozen scans, each over all pixels."""
EXIF_BYTES = 2**16
"""Most bytes of EXIF, more than cameras write."""
PIECE = 2**20
"""Bytes of a JPEG searched by one call, which holds the GIL."""

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


class ReadLimitedBytesIO(io.BytesIO):
    """A file in memory with a limited number of reads."""

    reads_left = HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as BytesIO does; raises OSError once `reads_left` is used up."""
        self.reads_left -= 1
        if self.reads_left < 0:
            raise OSError("It is in too many parts.")
        return super().read(size)


def check_pixels(image: ImageFile, body: bytes, name: str) -> None:
    """Raise TooLarge, before the pixels are decoded, if decoding would take long for their number."""
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
    """Raise TooLarge for more than EXIF_BYTES of EXIF."""
    if len(image.info.get("exif", b"")) > EXIF_BYTES:
        raise TooLarge(f"{name} has more than {EXIF_BYTES} bytes of EXIF.")


def _is_long(jpeg: bytes) -> bool:
    """Return whether a JPEG has too many scans or segments (ITU-T T.81, annex B)."""
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
    """Find the next marker, in pieces between which other threads can run."""
    pieces = (_MARKER.search(jpeg, start, start + PIECE + 1) for start in range(position, len(jpeg), PIECE))
    return next(filter(None, pieces), None)
