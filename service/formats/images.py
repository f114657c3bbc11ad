"""Pictures: PNG, JPEG, WebP, BMP and GIF are read, JPEG is written."""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from PIL import Image

from pictures.errors import PictureError, PictureTooLarge
from pictures.metadata import PNG_SIGNATURE, without_metadata
from pictures.opening import open_picture
from pictures.orientation import read_orientation
from pictures.pixels import STRIP_PIXELS, to_pixels
from service.errors import TooLarge, UnreadableBody
from service.formats import image_limits
from service.formats.png import IEND, to_sheet
from vae.metadata import Fit

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

JPEG_QUALITY = 90
"""Pillow's quality of JPEG responses."""
PLAIN_BYTES, PLAIN_PIXELS = 4096, 4096
"""Most bytes and pixels of a PNG that is decoded when it is opened, because that takes microseconds."""
STRIP_BYTES = 32
"""Memory of a pixel in a strip that is being converted, in bytes."""
DECODER_BYTES = {"JPEG": 6, "WEBP": 12}
"""Memory of Pillow's decoders per pixel, in bytes: coefficients of a progressive JPEG, two canvases of a WebP."""
LOSSLESS_GROUP_BYTES, LOSSLESS_GROUPS = 12_000, 65_536
"""Bytes and largest number of the code tables of a lossless WebP; it has at most one per 4×4 pixels."""


def open_image(body: bytes, pixel_limit: int, name: str = "The body") -> Image.Image:
    """Read the header of an image, and also the pixels of a small PNG; raises UnreadableBody or TooLarge."""
    if plain := open_plain_png(body, pixel_limit):
        return plain
    try:
        file, exif = without_metadata(body, name)
        stream = image_limits.ReadLimitedBytesIO(file)
        image = open_picture(stream, exif, pixel_limit, name)
    except PictureTooLarge as error:
        raise TooLarge(str(error)) from error
    except PictureError as error:
        raise UnreadableBody(str(error)) from error
    image_limits.check_pixels(image, file, name)
    image_limits.check_exif(image, name)
    stream.reads_left = image_limits.READS
    image.decodermaxblock = len(file)  # given in pieces, a decoder may start again with each
    return image


def memory_of(image: Image.Image, shape: tuple[int, ...], body: bytes) -> int:
    """Estimate the memory of `to_array` for an image opened from `body`, in bytes."""
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
    """Decode a small PNG with a single IDAT chunk, 8 bits per channel, grey or RGB, not interlaced; else return None.

    Most small pictures are such, and this takes a third of the time of Pillow's parser. Damaged files also return None,
    so that Pillow reports them.
    """
    if len(body) > PLAIN_BYTES or not body.startswith(PNG_SIGNATURE):
        return None
    size = int.from_bytes(body[33:37])
    data_end = 41 + size
    if body[8:16] != _IHDR or body[37:41] != b"IDAT" or body[data_end + 4 :] != IEND or body[24:29] not in _PLAIN_MODES:
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
    image: Image.Image, shape: tuple[int, ...], *, fit: Fit, invert: bool, name: str = "The body"
) -> FloatArray:
    """Decode an opened image to `shape` (C, H, W), float32 in [0, 1]; raises UnreadableBody."""
    try:
        pixels = to_pixels(image, shape, fit=fit, invert=invert, name=name).astype(np.float32)
    except PictureError as error:
        raise UnreadableBody(str(error)) from error
    pixels /= np.float32(255)
    return pixels


def write_jpeg(scanlines: ByteArray, channels: int) -> bytes:
    """Write images, as `write_png` takes them, as one JPEG."""
    sheet = to_sheet(scanlines, channels, None)
    buffer = io.BytesIO()
    Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


_IHDR = struct.pack(">I", 13) + b"IHDR"
_PLAIN_MODES = {bytes((8, 0, 0, 0, 0)): "L", bytes((8, 2, 0, 0, 0)): "RGB"}
"""Pillow's modes by bit depth, colour type, compression, filter and interlacing, as in IHDR."""
