"""Bytes ↔ pixels: PNG, JPEG, WebP, BMP and GIF in, PNG out."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from PIL import Image

from pictures.errors import PictureError, PictureTooLarge
from pictures.metadata import PNG_SIGNATURE, without_metadata
from pictures.opening import open_picture
from pictures.orientation import read_orientation
from pictures.pixels import STRIP_PIXELS, to_pixels
from service import effort
from service.errors import TooLarge, UnreadableBody
from vae.provenance import Fit

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

JPEG_QUALITY = 90
PNG_LEVEL = 1
"""Of isal's compression; the higher ones make digits and photographs hardly smaller."""
PLAIN_BYTES, PLAIN_PIXELS = 4096, 4096
"""Of a PNG that is decoded where it is opened: what takes some microseconds."""
STRIP_BYTES = 32
"""A pixel of a strip, for its copies."""
DECODER_BYTES = {"JPEG": 6, "WEBP": 12}
"""A pixel, that Pillow's decoders take beside the picture: a progressive JPEG's coefficients, a WebP's two canvases."""
LOSSLESS_GROUP_BYTES, LOSSLESS_GROUPS = 12_000, 65_536
"""Code tables of a lossless WebP, one for each 4×4 pixels at most."""
STORED_BYTES = 4096
"""Pixels of a PNG that is not compressed: that would take ten times as long, to save less than a packet or two."""


def open_image(body: bytes, pixel_limit: int, name: str = "The body") -> Image.Image:
    """Read an image's header, and the pixels only of a small PNG; raises UnreadableBody or TooLarge."""
    if plain := open_plain_png(body, pixel_limit):
        return plain
    try:
        file, exif = without_metadata(body, name)
        stream = effort.Stream(file)
        image = open_picture(stream, exif, pixel_limit, name)
    except PictureTooLarge as error:
        raise TooLarge(str(error)) from error
    except PictureError as error:
        raise UnreadableBody(str(error)) from error
    effort.check_pixels(image, file, name)
    effort.check_exif(image, name)
    stream.reads_left = effort.READS
    image.decodermaxblock = len(file)  # fed in pieces, a decoder may begin anew with each
    return image


def memory_of(image: Image.Image, shape: tuple[int, int, int], body: bytes) -> int:
    """About how many bytes `to_array` takes of an image that was opened from `body`."""
    tables = 0
    if image.format == "WEBP" and (b"VP8L" in body or b"ALPH" in body):
        groups = min(image.width * image.height // 16, LOSSLESS_GROUPS, len(body) // 8)
        tables = groups * LOSSLESS_GROUP_BYTES
    pixels = image.width * image.height
    decoded = 1 if image.mode in ("1", "L", "P") else 4
    given = 1 if shape[0] == 1 else 4
    turned = given if read_orientation(image) > 1 else 0
    return (
        tables
        + (pixels * (decoded + given + turned + DECODER_BYTES.get(image.format or "", 0)))
        + (min(pixels, STRIP_PIXELS) * STRIP_BYTES)
    )


def open_plain_png(body: bytes, pixel_limit: int) -> Image.Image | None:
    """A small PNG of a header, one chunk of pixels and an end, 8 bits a channel, grey or RGB, not interlaced, or None.

    It is what nearly all small pictures are, and takes a third of the time that Pillow's own reading of the file does.
    Checksums that are wrong, pixels that are missing or too many are left for that to tell of.
    """
    if len(body) > PLAIN_BYTES or not body.startswith(PNG_SIGNATURE):
        return None
    size = int.from_bytes(body[33:37])
    data_end = 41 + size
    if body[8:16] != _IHDR or body[37:41] != b"IDAT" or body[data_end + 4 :] != _END or body[24:29] not in _PLAIN_MODES:
        return None
    width, height = int.from_bytes(body[16:20]), int.from_bytes(body[20:24])
    header_sum, data_sum = int.from_bytes(body[29:33]), int.from_bytes(body[data_end : data_end + 4])
    if header_sum != isal_zlib.crc32(body[12:29]) or data_sum != isal_zlib.crc32(body[37:data_end]):
        return None
    if not 0 < width * height <= min(PLAIN_PIXELS, pixel_limit):
        return None
    mode = _PLAIN_MODES[body[24:29]]
    try:
        return Image.frombytes(mode, (width, height), body[41:data_end], "zip", mode)
    except ValueError:
        return None


def to_array(
    image: Image.Image, shape: tuple[int, int, int], *, fit: Fit, invert: bool, name: str = "The body"
) -> FloatArray:
    """Decode an opened image and bring it to `shape` (C, H, W), float32 in [0, 1]; raises UnreadableBody."""
    try:
        pixels = to_pixels(image, shape, fit=fit, invert=invert, name=name).astype(np.float32)
    except PictureError as error:
        raise UnreadableBody(str(error)) from error
    pixels /= np.float32(255)
    return pixels


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
        sheet = _sheet(scanlines, channels, columns)
        if scale > 1:
            sheet = sheet.repeat(scale, 0).repeat(scale, 1)
        lines = np.pad(sheet.reshape(len(sheet), -1), ((0, 0), (1, 0)))
    if channels > 1:
        lines = _differences(lines, channels)
    data = isal_zlib.compress(lines, PNG_LEVEL)
    return b"".join((_head(len(lines), lines.shape[1], channels), _chunk(b"IDAT" + data), _END))


def write_jpeg(scanlines: ByteArray, channels: int) -> bytes:
    """Images, as `write_png` takes them → one JPEG."""
    sheet = _sheet(scanlines, channels, None)
    buffer = io.BytesIO()
    Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _sheet(scanlines: ByteArray, channels: int, columns: int | None) -> ByteArray:
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
    return b"".join((head, pixels, adler, check.to_bytes(4), _END))


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


_END = _chunk(b"IEND")
_IHDR = struct.pack(">I", 13) + b"IHDR"
_PLAIN_MODES = {bytes((8, 0, 0, 0, 0)): "L", bytes((8, 2, 0, 0, 0)): "RGB"}
"""By depth, colour type, compression, filter and interlacing, as IHDR has them."""
