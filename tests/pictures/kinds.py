"""A picture of each kind that callers send: format, mode, bits, alpha, orientation, proportions."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tests.service.pictures import ORIENTATION, Bytes, picture

HEIGHT, WIDTH = 36, 54
DEEP = 257
"""From 8 bits to 16."""


def sample_colours(height: int = HEIGHT, width: int = WIDTH) -> Bytes:
    """Colours and an alpha that differ everywhere, smooth enough for a JPEG, (H, W, 4)."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    return np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)))


def raw_png(samples: NDArray[np.uint16], bits: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG (ISO/IEC 15948) of `samples` (H, W, channels), of a kind that Pillow does not write."""
    height, width, _ = samples.shape
    rows = samples.reshape(height, -1)
    if bits == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        bit_rows = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        packed = [np.packbits(row.reshape(-1)).tobytes() for row in bit_rows]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in packed))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


def kinds() -> dict[str, bytes]:
    """Name, with the suffix of a file → file."""
    return dict((*_pngs(), *_jpegs(), *_others()))


def _pngs() -> Iterator[tuple[str, bytes]]:
    rgba = sample_colours()
    image = Image.fromarray(rgba)
    rgb, grey, alpha = image.convert("RGB"), image.convert("L"), rgba[:, :, 3]
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield f"{mode}.png", picture(image.convert(mode))
    palette = rgb.quantize(16)
    yield "palette-with-alpha.png", picture(palette, transparency=bytes(range(0, 256, 16)))
    yield "palette-with-one-clear-colour.png", picture(palette, transparency=3)
    middle = int(np.asarray(grey)[18, 27])
    yield "grey-with-one-clear-grey.png", picture(grey, transparency=middle)
    clear_colour = tuple(map(int, rgba[18, 27, :3]))
    yield "rgb-with-one-clear-colour.png", picture(rgb, transparency=clear_colour)
    deep = rgba.astype(np.uint16) * DEEP + np.arange(WIDTH, dtype=np.uint16)[:, None] % 200
    wide = np.minimum(deep, 65535).astype(np.uint16)
    clear = wide[18, 27, :1].astype(">u2").tobytes()
    yield "grey-16.png", picture(Image.fromarray(wide[:, :, 0]))
    yield "grey-16-with-one-clear-grey.png", raw_png(wide[:, :, :1], 16, 0, (b"tRNS", clear))
    yield "rgb-16.png", raw_png(wide[:, :, :3], 16, 2)
    yield "grey-alpha-16.png", raw_png(wide[:, :, ::3], 16, 4)
    yield "rgba-16.png", raw_png(wide, 16, 6)
    four_bits = (alpha[:, :, None] >> 4).astype(np.uint16)
    yield "grey-4.png", raw_png(four_bits, 4, 0)
    yield "grey-4-with-one-clear-grey.png", raw_png(four_bits, 4, 0, (b"tRNS", struct.pack(">H", 7)))
    for turn in (3, 6):
        yield f"turned-{turn}.png", picture(rgb, exif=exif(turn))
    late = chunk(b"eXIf", exif(8).removeprefix(b"Exif\0\0"))
    end = len(chunk(b"IEND", b""))
    body = picture(rgb)
    yield "turned-at-its-end.png", body[:-end] + late + body[-end:]
    yield "wide.png", picture(Image.fromarray(sample_colours(12, 90)))
    yield "tall.png", picture(Image.fromarray(sample_colours(90, 12)))
    yield "tiny.png", picture(Image.fromarray(sample_colours(3, 5)))


def _jpegs() -> Iterator[tuple[str, bytes]]:
    rgb = Image.fromarray(sample_colours()).convert("RGB")
    for mode in ("L", "RGB", "CMYK"):
        yield f"{mode}.jpg", picture(rgb.convert(mode), "JPEG", quality=90)
    yield "progressive.jpeg", picture(rgb, "JPEG", progressive=True)
    for turn in range(2, 9):
        yield f"turned-{turn}.jpg", picture(rgb, "JPEG", exif=exif(turn))
    yield "large.jpg", picture(rgb.resize((900, 600)), "JPEG")


def _others() -> Iterator[tuple[str, bytes]]:
    image = Image.fromarray(sample_colours())
    rgb = image.convert("RGB")
    yield "lossless.webp", picture(image, "WEBP", lossless=True, exact=True)
    yield "lossy.webp", picture(rgb, "WEBP")
    yield "turned.webp", picture(rgb, "WEBP", exif=exif(6))
    yield "palette.gif", picture(rgb.quantize(64), "GIF")
    yield "palette-with-one-clear-colour.gif", picture(rgb.quantize(64), "GIF", transparency=5)
    yield "moving.gif", picture(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)])
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"{mode}.bmp", picture(image.convert(mode), "BMP")
