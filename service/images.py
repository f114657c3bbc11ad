"""Bytes ↔ pixels: PNG, JPEG, WebP, BMP and GIF in, PNG out."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from math import ceil, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from PIL import Image, ImageChops, ImageFile, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from service import effort
from service.errors import TooLarge, UnreadableBody
from service.metadata import PNG_SIGNATURE, without_metadata
from service.orientation import TURNS, read_orientation

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Fit = Literal["contain", "cover", "stretch"]

JPEG_QUALITY = 90
PNG_LEVEL = 1
"""Of isal's compression; the higher ones make digits and photographs hardly smaller."""
FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/gif": "GIF",
}
"""Media types taken, and Pillow's name for each. Pillow knows many more formats; none of those is ever tried."""

PLAIN_BYTES, PLAIN_PIXELS = 4096, 4096
"""Of a PNG that is decoded where it is opened: what takes some microseconds."""
STRIP_PIXELS = 2**18
"""Of a picture that is converted in one go, a millisecond or two."""
STRIP_BYTES = 32
"""A pixel of a strip, for its copies."""
DECODER_BYTES = {"JPEG": 6, "WEBP": 12}
"""A pixel, that Pillow's decoders take beside the picture: a progressive JPEG's coefficients, a WebP's two canvases."""
GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Between two of the greys of a PNG of 2 or 4 bits, by Pillow's name for its samples."""
LOSSLESS_GROUP_BYTES, LOSSLESS_GROUPS = 12_000, 65_536
"""Code tables of a lossless WebP, one for each 4×4 pixels at most."""
STORED_BYTES = 4096
"""Pixels of a PNG that is not compressed: that would take ten times as long, to save less than a packet or two."""


def open_image(body: bytes, pixel_limit: int, name: str = "The body") -> Image.Image:
    """Read an image's header, and the pixels only of a small PNG; raises UnreadableBody or TooLarge."""
    if plain := open_plain_png(body, pixel_limit):
        return plain
    file, exif = without_metadata(body, name)
    stream = effort.Stream(file)
    try:
        if file.startswith(PNG_SIGNATURE):  # Pillow's search for the format takes as long as reading a small PNG
            image: ImageFile.ImageFile = PngImageFile(stream)
        else:
            image = Image.open(stream, formats=tuple(FORMATS.values()))
    except UnidentifiedImageError as error:
        wanted = ", ".join(FORMATS.values())
        raise UnreadableBody(f"{name} is not an image: none of {wanted} could be recognised in it.") from error
    except Exception as error:  # Pillow's parsers raise whatever they trip over
        raise UnreadableBody(f"{name} is not a whole image: its header cannot be read.") from error
    if image.width * image.height > pixel_limit:
        raise TooLarge(f"{name} is an image of {image.width}×{image.height} pixels; at most {pixel_limit} are taken.")
    effort.check_pixels(image, file, name)
    if exif:
        image.info["exif"] = exif
    effort.check_exif(image, name)
    if "transparency" in image.info and image.tile and image.tile[0].args in GREY_STEPS:
        image.info["transparency"] *= GREY_STEPS[image.tile[0].args]  # Pillow scales the samples alone
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
    """Decode an opened image and bring it to `shape` (C, H, W), float32 in [0, 1].

    Colours are inverted where asked, alpha is laid over black, EXIF orientation is applied, the picture is turned grey
    (ITU-R BT.601) or RGB and scaled with antialiasing. Raises UnreadableBody.
    """
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    try:
        picture = _fit(_decode(image, mode, (width, height), invert=invert), (width, height), fit)
    except Exception as error:  # Pillow's decoders raise whatever they trip over
        raise UnreadableBody(f"{name} is not a whole image: its pixels cannot be decoded.") from error
    pixels = np.frombuffer(picture.tobytes(), np.uint8).astype(np.float32)
    pixels /= np.float32(255)
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _decode(image: Image.Image, mode: str, size: tuple[int, int], *, invert: bool) -> Image.Image:
    """All pixels, upright, of `mode` L or RGB; a JPEG at an eighth of its size where that is enough for `size`."""
    image.draft(mode, (4 * size[0], 4 * size[1]))
    image.load()
    picture = (
        image if image.mode == mode and not (invert or image.has_transparency_data) else _flatten(image, mode, invert)
    )
    turn = TURNS.get(read_orientation(image)) if image.info else None
    return picture if turn is None else picture.transpose(turn)


def _fit(picture: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    if picture.size == size:
        return picture
    shrinks = picture.width >= size[0] and picture.height >= size[1]
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    if fit == "contain":
        return ImageOps.pad(picture, size, how)
    if fit == "cover":
        return ImageOps.fit(picture, size, how)
    return picture.resize(size, how)


def _flatten(image: Image.Image, mode: str, invert: bool) -> Image.Image:
    """Any Pillow mode → L or RGB, 8 bits a channel, alpha laid over black.

    In strips: some of Pillow's conversions hold Python's lock, and each takes a copy of the picture.
    """
    width, height = image.size
    rows = max(1, STRIP_PIXELS // width)
    if rows >= height:
        return _flatten_strip(image, mode, invert)
    flat = Image.new(mode, image.size)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        flat.paste(_flatten_strip(strip, mode, invert), (0, top))
    return flat


def _flatten_strip(image: Image.Image, mode: str, invert: bool) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would clip it
        wide, clear = np.asarray(image).astype(np.uint32), image.info.get("transparency")
        image = Image.fromarray((wide // 257).astype(np.uint8))
        if clear is not None:
            image.putalpha(Image.fromarray(wide != clear))
    if not image.has_transparency_data:
        opaque = image if image.mode == mode else image.convert(mode)
        return ImageChops.invert(opaque) if invert else opaque
    layered = image.convert("RGBA")
    alpha = layered.getchannel("A")
    colour = layered.convert(mode)
    if invert:
        colour = ImageChops.invert(colour)
    return Image.composite(colour, Image.new(mode, image.size), alpha)


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
