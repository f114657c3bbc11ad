"""Pixels → PNG (ISO/IEC 15948)."""

from __future__ import annotations

import struct
from functools import lru_cache
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from pictures.metadata import PNG_SIGNATURE

ByteArray = npt.NDArray[np.uint8]

PNG_LEVEL = 1
"""Of isal's compression; the higher ones make digits and photographs hardly smaller."""
STORED_BYTES = 4096
"""Pixels of a PNG that is not compressed: that would take ten times as long, to save less than a packet or two."""


def write_png(scanlines: ByteArray, channels: int, columns: int | None = None, scale: int = 1) -> bytes:
    """Images → one PNG: a single image, or a grid as square as it can be, row by row.

    `scanlines` are uint8 (N, H, 1 + W·C): each row of pixels after the number of its filter, 0, as PNG wants it.
    `columns` sets the grid's width in images, `scale` enlarges each pixel to a square of that side. isal compresses:
    in a tenth of zlib's time, to a tenth more of digits.
    """
    if len(scanlines) == scale == 1:
        if scanlines.size <= STORED_BYTES:
            return _store_png(scanlines[0], channels)
        lines = scanlines[0]
    else:
        sheet = to_sheet(scanlines, channels, columns)
        if scale > 1:
            sheet = sheet.repeat(scale, 0).repeat(scale, 1)
        lines = np.pad(sheet.reshape(len(sheet), -1), ((0, 0), (1, 0)))
    if channels > 1:
        lines = _differences(lines, channels)
    data = isal_zlib.compress(lines, PNG_LEVEL)
    return b"".join((_head(len(lines), lines.shape[1], channels), _chunk(b"IDAT" + data), IEND))


def to_sheet(scanlines: ByteArray, channels: int, columns: int | None) -> ByteArray:
    """Images side by side, (H, W, C)."""
    count, height, _ = scanlines.shape
    images = scanlines[:, :, 1:].reshape(count, height, -1, channels)
    return images[0] if count == 1 else _tile(images, columns)


def grid(count: int, columns: int | None) -> tuple[int, int]:
    """Columns and rows of a sheet of `count` images, as square as it can be where `columns` says nothing."""
    if count == 1:
        return 1, 1
    columns = min(columns or ceil(sqrt(count)), count)
    return columns, ceil(count / columns)


def _tile(images: ByteArray, columns: int | None) -> ByteArray:
    """Images (N, H, W, C) → one sheet of them."""
    count, height, width, channels = images.shape
    columns, rows = grid(count, columns)
    places = np.zeros((rows * columns, height, width, channels), np.uint8)
    places[:count] = images
    sheet = places.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return sheet.reshape(rows * height, columns * width, channels)


def _store_png(scanlines: ByteArray, channels: int) -> bytes:
    """A PNG (ISO/IEC 15948) in one stored block of zlib's (RFC 1950, RFC 1951): nothing is compressed."""
    head, check = _stored_head(*scanlines.shape, channels)
    pixels = scanlines.tobytes()
    adler = isal_zlib.adler32(pixels).to_bytes(4)
    check = isal_zlib.crc32(adler, isal_zlib.crc32(pixels, check))
    return b"".join((head, pixels, adler, check.to_bytes(4), IEND))


@lru_cache
def _stored_head(height: int, length: int, channels: int) -> tuple[bytes, int]:
    """All that goes before the scanlines, and the checksum of the part of it that their chunk begins with."""
    size = height * length
    data = b"IDAT" + struct.pack("<2sBHH", b"\x78\x01", 1, size, size ^ 0xFFFF)
    return _head(height, length, channels) + struct.pack(">I", len(data) + size) + data, isal_zlib.crc32(data)


def _head(height: int, length: int, channels: int) -> bytes:
    """Of a PNG of so many scanlines, so long each."""
    colour_type = {1: 0, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", (length - 1) // channels, height, 8, colour_type, 0, 0, 0)
    return PNG_SIGNATURE + _chunk(b"IHDR" + header)


def _differences(scanlines: ByteArray, channels: int) -> ByteArray:
    """Each pixel less the one to its left, modulo 256: PNG's filter 1. Colours are smaller so; most digits are not."""
    filtered = scanlines.copy()
    filtered[:, 0] = 1
    filtered[:, 1 + channels :] -= scanlines[:, 1:-channels]
    return filtered


def _chunk(kind_and_data: bytes) -> bytes:
    return struct.pack(">I", len(kind_and_data) - 4) + kind_and_data + struct.pack(">I", isal_zlib.crc32(kind_and_data))


IEND = _chunk(b"IEND")
