"""Image files that are expensive for their size or that break decoders."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
from PIL import Image
from PIL.ImageCms import ImageCmsProfile, createProfile

from tests.soak.hostile_exif import BYTE, EXIF_BLOCKS, LONG, UNDEFINED, looping_exif, orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIDE = 28
MEGABYTE = 1_000_000
MANY = 100_000
"""Segments, blocks or chunks, far more than a camera or a drawing program writes."""


@cache
def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (60, 90, 3), np.uint8))


# PNG


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    before: bytes = b"", after: bytes = b"", *, side: int = SIDE, colour: int = 0, idat: bytes | None = None
) -> bytes:
    """A square PNG with chunks added before and after its IDAT; `idat` replaces the chunks of its pixels."""
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    if idat is None:
        idat = chunk(b"IDAT", zlib.compress((b"\0" * (channels * side + 1)) * side, 1))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, colour, 0, 0, 0))
    return SIGNATURE + head + before + idat + after + chunk(b"IEND")


def large_png(side: int = 7000) -> bytes:
    """A blank RGBA image of 49 million pixels, just below the default limit, in 190 kB."""
    row = bytes(4 * side + 1)
    packer = zlib.compressobj(9)
    data = packer.compress(row * 100) + packer.flush(zlib.Z_FULL_FLUSH)
    repeated = packer.compress(row * 100) + packer.flush(zlib.Z_FULL_FLUSH)
    size = side // 100 * 100 * len(row)
    checksum = struct.pack(">I", (size % 65_521) << 16 | 1)  # Adler-32 of zeros
    idat = chunk(b"IDAT", data + repeated * (side // 100 - 1) + b"\x03\0" + checksum)
    return png(side=side, colour=6, idat=idat)


def text_png(texts: int = 30, side: int = 4) -> bytes:
    """Each zTXt chunk decompresses to a megabyte."""
    packed = zlib.compress(bytes(MEGABYTE), 9)
    return png(b"".join(chunk(b"zTXt", b"%d\0\0" % number + packed) for number in range(texts)), side=side)


def raw_profile(name: bytes, text: bytes) -> bytes:
    """A profile as ImageMagick stores it, as hexadecimal digits in a zTXt chunk."""
    return chunk(b"zTXt", b"Raw profile type %b\0\0" % name + zlib.compress(text))


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(share * len(data))]


def _noise_png() -> bytes:
    return _save(_noise(), "PNG")


def _broken_zlib() -> bytes:
    return png(idat=chunk(b"IDAT", b"\x78\x9c" + b"\xff" * 100))


def _animated(frames: int) -> bytes:
    """Animated PNG: acTL, then fcTL and fdAT of each frame."""
    pixels = zlib.compress(b"\0" * (SIDE + 1) * SIDE)

    def control(number: int, side: int = SIDE) -> bytes:
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, side, side, 0, 0, 1, 10, 0, 0))

    after = b"".join(
        control(2 * number + 1) + chunk(b"fdAT", struct.pack(">I", 2 * number + 2) + pixels) for number in range(frames)
    )
    return png(chunk(b"acTL", struct.pack(">II", frames + 1, 0)) + control(0), after)


def _lying_animation() -> bytes:
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 2**31 - 1, 2**31 - 1, 2**31 - 1, 0, 1, 10, 9, 9))
    return png(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + control)


def _suggested_palette() -> bytes:
    return chunk(b"sPLT", b"name\0\x10" + bytes(10 * MANY))


def _small_idats() -> bytes:
    """A chunk for each byte of the pixels."""
    noise = zlib.compress(np.random.default_rng(0).integers(0, 256, 64 * 65, np.uint8).tobytes(), 0)
    return b"".join(chunk(b"IDAT", noise[index : index + 1]) for index in range(len(noise)))


def _profile_chunk(size: int) -> bytes:
    return chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(size), 9))


def _icc_png() -> bytes:
    return png(chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(ImageCmsProfile(createProfile("sRGB")).tobytes())))


def _exif_png(make: Callable[[], bytes], *, after: bool = False) -> bytes:
    block = chunk(b"eXIf", make())
    return png(after=block) if after else png(block)


def _many(kind: bytes, data: bytes = b"") -> bytes:
    return chunk(kind, data) * MANY


PNGS: dict[str, Callable[[], bytes]] = {
    "49 million pixels": large_png,
    "cut in IDAT": lambda: _cut(_noise_png(), 0.5),
    "cut before IEND": lambda: _noise_png()[:-12],
    "broken zlib": _broken_zlib,
    "30 MB of zTXt": text_png,
    "60 MB of zTXt": lambda: text_png(60),
    "one zTXt of 30 MB": lambda: png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30 * MEGABYTE), 9))),
    "30 MB of iTXt": lambda: png(chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(MEGABYTE), 9)) * 30, side=4),
    "30 MB of zTXt after IDAT": lambda: png(after=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(MEGABYTE), 9)) * 30),
    "zTXt and iTXt and iCCP": lambda: png(
        (
            chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(MEGABYTE), 9))
            + chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(MEGABYTE), 9))
            + _profile_chunk(MEGABYTE)
        )
        * 8,
        side=4,
    ),
    "zTXt of another method": lambda: png(chunk(b"zTXt", b"a\0\x63" + b"x" * 100)),
    "zTXt of one byte": lambda: png(chunk(b"zTXt", b"a")),
    "iTXt without its fields": lambda: png(chunk(b"iTXt", b"a\0\1")),
    "iTXt that is not UTF-8": lambda: png(chunk(b"iTXt", b"\xff\xfe\0\0\0\xff\0\xff\0\xff\xfe")),
    "XMP of 30 MB": lambda: png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<a>" * 10 * MEGABYTE)),
    "XMP with an orientation": lambda: png(
        chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="' + b"6" * 50_000 + b'"/>')
    ),
    "tEXt with megabytes of EXIF": lambda: png(
        chunk(b"tEXt", b"Raw profile type exif\0" + b"\nexif\n9\n" + b"00" * MEGABYTE)
    ),
    "raw profile that is no hex": lambda: png(raw_profile(b"exif", b"\nexif\n     8\nzzzz\n")),
    "raw profile of an odd length": lambda: png(raw_profile(b"exif", b"\nexif\n     8\n4d4\n")),
    "raw profile without lines": lambda: png(raw_profile(b"exif", b"exif")),
    "raw profile APP1": lambda: png(
        raw_profile(b"APP1", b"\nAPP1\n 40\n" + (b"Exif\0\0" + orientation(BYTE)).hex().encode())
    ),
    "raw profile xmp": lambda: png(raw_profile(b"xmp", b"\nxmp\n 9\nzz")),
    "raw profile that is not ASCII": lambda: png(raw_profile(b"exif", "\nexif\n8\n٣٣٣٣\n".encode())),
    "raw profile in tEXt": lambda: png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n8\nzz")),
    "raw profile with a loop": lambda: png(raw_profile(b"exif", b"\nexif\n9\n" + looping_exif().hex().encode())),
    "iCCP of 30 MB": lambda: png(_profile_chunk(30 * MEGABYTE)),
    "eight iCCP of a megabyte": lambda: png(_profile_chunk(MEGABYTE) * 8),
    "iCCP": _icc_png,
    "iCCP without a name": lambda: png(chunk(b"iCCP", b"x" * 200)),
    "animated": lambda: _animated(3),
    "animated, 10,000 frames": lambda: _animated(10_000),
    "animated beyond its frame": _lying_animation,
    "acTL of no bytes": lambda: png(chunk(b"acTL")),
    "fcTL after IDAT, short": lambda: png(after=chunk(b"fcTL", b"xx")),
    "fdAT of no bytes": lambda: png(chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fdAT")),
    "PLTE of a megabyte": lambda: png(chunk(b"PLTE", bytes(3 * MEGABYTE)), colour=3),
    "PLTE of no bytes": lambda: png(chunk(b"PLTE"), colour=3),
    "no PLTE": lambda: png(colour=3),
    "tRNS of a megabyte": lambda: png(chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(MEGABYTE)), colour=3),
    "tRNS of no bytes": lambda: png(chunk(b"tRNS")),
    "tRNS of one byte, RGB": lambda: png(chunk(b"tRNS", b"\0"), colour=2),
    "sPLT of a megabyte": lambda: png(_suggested_palette()),
    "thousands of IDAT": lambda: png(side=64, idat=_small_idats()),
    "100,000 empty IDAT": lambda: png(idat=_many(b"IDAT")),
    "100,000 tEXt": lambda: png(_many(b"tEXt", b"a\0b")),
    "100,000 private chunks": lambda: png(_many(b"prVt")),
    "100,000 private chunks after IDAT": lambda: png(after=_many(b"prVt")),
    "chunk longer than the file": lambda: png(struct.pack(">I", 2**31 - 1) + b"tEXt" + b"x" * 99),
    "gAMA, cHRM and pHYs of no bytes": lambda: png(chunk(b"gAMA") + chunk(b"cHRM") + chunk(b"pHYs")),
    "height of no rows": lambda: SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 0, 8, 0, 0, 0, 0)),
    "unknown bit depth": lambda: SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 7, 5, 9, 9, 9)),
    "IHDR of three bytes": lambda: SIGNATURE + chunk(b"IHDR", b"abc"),
    "interlaced": lambda: (
        SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 1))
        + chunk(b"IDAT", zlib.compress(b"\0" * 2000))
        + chunk(b"IEND")
    ),
    "unknown filters": lambda: png(idat=chunk(b"IDAT", zlib.compress((b"\x09" + bytes(SIDE)) * SIDE))),
    "30 MB of pixels too many": lambda: png(idat=chunk(b"IDAT", zlib.compress(bytes(30 * MEGABYTE), 9))),
    **{f"eXIf {name}": partial(_exif_png, make) for name, make in EXIF_BLOCKS.items()},
    **{f"eXIf {name}, after IDAT": partial(_exif_png, make, after=True) for name, make in EXIF_BLOCKS.items()},
}


# JPEG


def segment(marker: int, data: bytes = b"") -> bytes:
    """A segment of a JPEG, with its length."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(before: bytes = b"", *, grey: bool = False, **options: Any) -> bytes:
    """A JPEG with segments added after its SOI."""
    whole = _save(_noise().convert("L") if grey else _noise(), "JPEG", **options)
    return whole[:2] + before + whole[2:]


def _scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    whole = jpeg(progressive=True)
    scan, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    return whole[:scan] + whole[scan:end] * count + whole[end:]


def _large_progressive(side: int) -> bytes:
    return _save(Image.new("L", (side, side), 99), "JPEG", progressive=True)


def _multi_picture(pictures: int) -> bytes:
    noise = _noise()
    return _save(noise, "MPO", save_all=True, append_images=[noise.rotate(90 * number) for number in range(pictures)])


def _lying_size(width: int, height: int) -> bytes:
    whole = bytearray(jpeg(grey=True))
    start = whole.index(b"\xff\xc0")
    struct.pack_into(">HH", whole, start + 5, height, width)
    return bytes(whole)


def _multi_picture_header(count: int) -> bytes:
    """APP2 of the MPF kind whose index claims `count` pictures."""
    index = struct.pack(">HHII", 0xB001, LONG, 1, count) + struct.pack(
        ">HHII", 0xB002, UNDEFINED, 16 * count % 2**32, 50
    )
    return segment(
        0xE2, b"MPF\0MM\0*\0\0\0\x08\0\3" + struct.pack(">HHI4s", 0xB000, UNDEFINED, 4, b"0100") + index + bytes(99)
    )


def _exif_jpeg(make: Callable[[], bytes]) -> bytes:
    return jpeg(segment(0xE1, (b"Exif\0\0" + make())[:65_500]))


JPEGS: dict[str, Callable[[], bytes]] = {
    "cut": lambda: _cut(jpeg(), 0.5),
    "900 APP segments": lambda: jpeg(segment(0xE5, b"x" * 100) * 900),
    "100,000 APP segments": lambda: jpeg(segment(0xE5) * MANY),
    "450 APP segments of 64 kB": lambda: jpeg(segment(0xE5, bytes(65_000)) * 450),
    "100,000 comments": lambda: jpeg(segment(0xFE, b"x") * MANY),
    "900 DHT": lambda: jpeg(_tables(0xFFC4) * 90),
    "10,000 DQT": lambda: jpeg(segment(0xDB, b"\0" + bytes(range(1, 65))) * 10_000),
    "DQT of no bytes": lambda: jpeg(segment(0xDB)),
    "DHT that overflows": lambda: jpeg(segment(0xC4, b"\0" + b"\xff" * 16 + bytes(4080))),
    "DRI of one": lambda: jpeg(segment(0xDD, b"\0\1")),
    "40 scans": lambda: _scans(40),
    "1,000 scans": lambda: _scans(1000),
    "progressive, 36 million pixels": lambda: _large_progressive(6000),
    "65,535 by 65,535 pixels claimed": lambda: _lying_size(65_535, 65_535),
    "7000 by 7000 pixels claimed": lambda: _lying_size(7000, 7000),
    "no rows": lambda: _lying_size(28, 0),
    "several pictures": lambda: _multi_picture(3),
    "MPF index of 2**31": lambda: jpeg(_multi_picture_header(2**31 - 1)),
    "MPF index cut": lambda: jpeg(segment(0xE2, b"MPF\0MM\0*\0\0")),
    "ICC profile of 255 pieces": lambda: jpeg(
        b"".join(segment(0xE2, b"ICC_PROFILE\0%c\xff" % (number + 1) + bytes(60_000)) for number in range(255))
    ),
    "ICC profile without its pieces": lambda: jpeg(segment(0xE2, b"ICC_PROFILE\0")),
    "Adobe segment of no bytes": lambda: jpeg(segment(0xEE, b"Adobe")),
    "Photoshop resources": lambda: jpeg(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\x10" + bytes(16))),
    "Photoshop resources, thousands": lambda: jpeg(
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * 5000)
    ),
    "Photoshop resources cut": lambda: jpeg(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\x10ab")),
    "JFIF of no bytes": lambda: jpeg(segment(0xE0, b"JFIF\0")),
    "XMP in two segments": lambda: jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<a>") * 2),
    "EXIF in 200 segments": lambda: jpeg(segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 200),
    "CMYK": lambda: _save(_noise().convert("CMYK"), "JPEG"),
    "filler bytes": lambda: jpeg(b"\xff" * 10 * MEGABYTE),
    "30 MB after its end": lambda: jpeg() + bytes(30 * MEGABYTE),
    **{f"EXIF {name}": partial(_exif_jpeg, make) for name, make in EXIF_BLOCKS.items()},
}


# GIF, WebP, BMP


def gif(
    blocks: bytes = b"", palette: bytes = b"", local: bytes = b"", size: tuple[int, int] = (1, 1), frames: int = 1
) -> bytes:
    """Frames of one pixel; `palette` is the global one, `local` that of each frame, `blocks` stand before them."""

    def flags(colours: bytes) -> int:
        return 0x80 | max(0, (len(colours) // 3 - 1).bit_length() - 1) if colours else 0

    head = b"GIF89a" + struct.pack("<HHBBB", *size, flags(palette), 0, 0) + palette
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, flags(local)) + local + b"\x02\x02\x44\x01\0"
    return head + blocks + frame * frames + b";"


def _placed_gif(left: int, top: int, width: int, height: int) -> bytes:
    """A GIF with a frame at this place of its screen."""
    whole = gif(palette=bytes(6), size=(28, 28))
    start = whole.rindex(b",")
    return whole[: start + 1] + struct.pack("<HHHH", left, top, width, height) + whole[start + 9 :]


GREY_PALETTE, COLOURED_PALETTE = b"\0\0\0\1\1\1", b"\xff\0\0\0\0\xff"
"""Pillow takes a palette for grey where each colour is its own index."""
GIFS: dict[str, Callable[[], bytes]] = {
    "coloured global, grey local palette": lambda: gif(palette=COLOURED_PALETTE, local=GREY_PALETTE),
    "grey global, coloured local palette": lambda: gif(palette=GREY_PALETTE, local=COLOURED_PALETTE),
    "coloured local palette alone": lambda: gif(local=COLOURED_PALETTE),
    "no palette": gif,
    "palettes and a transparent colour": lambda: gif(
        b"!\xf9\x04\x01\0\0\0\0", palette=COLOURED_PALETTE, local=GREY_PALETTE
    ),
    "transparent colour beyond the palette": lambda: gif(b"!\xf9\x04\x01\0\0\xff\0", palette=COLOURED_PALETTE),
    "disposal of no kind": lambda: gif(b"!\xf9\x04\x1d\0\0\0\0", palette=COLOURED_PALETTE, frames=2),
    "100,000 extension blocks": lambda: gif(b"!\x01\x01x\0" * MANY, GREY_PALETTE),
    "comment of 100,000 blocks": lambda: gif(b"!\xfe" + b"\x01x" * MANY + b"\0", GREY_PALETTE),
    "comment of 25 MB": lambda: gif(b"!\xfe" + (b"\xff" + b"x" * 255) * 100_000 + b"\0", GREY_PALETTE),
    "10,000 frames": lambda: gif(palette=GREY_PALETTE, frames=10_000),
    "NETSCAPE block cut": lambda: gif(b"!\xff\x0bNETSCAPE2.0\0", GREY_PALETTE),
    "frame outside the screen": lambda: _placed_gif(60_000, 60_000, 28, 28),
    "frame larger than the screen": lambda: _placed_gif(0, 0, 65_535, 65_535),
    "frame of no size": lambda: _placed_gif(0, 0, 0, 0),
    "screen of no size": lambda: gif(palette=GREY_PALETTE, size=(0, 0)),
    "screen of 65,535 by 65,535": lambda: gif(palette=GREY_PALETTE, size=(65_535, 65_535)),
    "screen of 7000 by 7000": lambda: gif(palette=GREY_PALETTE, size=(7000, 7000)),
    "cut": lambda: gif(palette=GREY_PALETTE)[:-6],
    "code size of 12": lambda: gif(palette=GREY_PALETTE).replace(b"\x02\x02\x44", b"\x0c\x02\x44"),
    "code size of 255": lambda: gif(palette=GREY_PALETTE).replace(b"\x02\x02\x44", b"\xff\x02\x44"),
}


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def webp(*extra: tuple[bytes, bytes], flags: int = 0, canvas: tuple[int, int] = (90, 60)) -> bytes:
    """An extended WebP: a VP8X chunk with this canvas size, the image data, and extra chunks."""
    whole = _save(_noise(), "WEBP")
    pixels = (whole[12:16], whole[20:])
    sizes = b"".join((size - 1).to_bytes(3, "little") for size in canvas)
    return riff((b"VP8X", struct.pack("<I", flags) + sizes), pixels, *extra)


def _moving_webp(frames: int) -> bytes:
    noise = _noise()
    return _save(noise, "WEBP", save_all=True, append_images=[noise.rotate(7 * number) for number in range(1, frames)])


def _exif_webp(make: Callable[[], bytes], *, prefix: bytes = b"") -> bytes:
    return webp((b"EXIF", prefix + make()), flags=8)


WEBPS: dict[str, Callable[[], bytes]] = {
    "cut": lambda: _cut(_save(_noise(), "WEBP"), 0.5),
    "animated": lambda: _moving_webp(40),
    "animated, cut": lambda: _cut(_moving_webp(5), 0.7),
    "canvas of 16,384 by 16,384": lambda: webp(canvas=(16_384, 16_384)),
    "canvas of 2**24 by 2**24": lambda: webp(canvas=(2**24, 2**24)),
    "canvas of 7000 by 7000": lambda: webp(canvas=(7000, 7000)),
    "animated without frames": lambda: webp(flags=2, canvas=(7000, 7000)),
    "lossless of 7000 by 7000": lambda: _save(
        Image.new("RGB", (7000, 7000)), "WEBP", lossless=True, quality=0, method=0
    ),
    "XMP of 30 MB": lambda: webp((b"XMP ", b"<a>" * 10 * MEGABYTE), flags=4),
    "ICCP of 30 MB": lambda: webp((b"ICCP", bytes(30 * MEGABYTE)), flags=0x20),
    "100,000 unknown chunks": lambda: webp(*[(b"XXXX", b"")] * MANY),
    "RIFF longer than the file": lambda: b"RIFF\xff\xff\xff\x7f" + _save(_noise(), "WEBP")[8:],
    "ALPH of 10 MB": lambda: webp((b"ALPH", bytes(10 * MEGABYTE)), flags=0x10),
    **{f"EXIF {name}": partial(_exif_webp, make) for name, make in EXIF_BLOCKS.items()},
    **{f"EXIF {name}, prefixed": partial(_exif_webp, make, prefix=b"Exif\0\0") for name, make in EXIF_BLOCKS.items()},
}


def bmp(
    pixels: bytes,
    size: tuple[int, int] = (28, 28),
    *,
    bits: int = 8,
    compression: int = 0,
    colours: int = 0,
    palette: bytes = bytes(1024),
    header: int = 40,
) -> bytes:
    """A BMP with a header of `header` bytes: 12 is OS/2's, 40 Windows', 108 and 124 the later ones."""
    start = 14 + header + len(palette)
    if header == 12:
        info = struct.pack("<IHHHH", 12, size[0] & 0xFFFF, size[1] & 0xFFFF, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", header, *size, 1, bits, compression, len(pixels), 0, 0, colours, 0)
        info = info.ljust(header, b"\0")
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start & 0xFFFFFFFF) + info + palette + pixels


BMPS: dict[str, Callable[[], bytes]] = {
    "RLE8": lambda: bmp(b"\x1c\x05\0\0" * 28 + b"\0\1", compression=1),
    "RLE8 of a million pixels": lambda: bmp(b"\xff\x05" * 4113 + b"\0\1", (1024, 1024), compression=1),
    "RLE8, a row at a time": lambda: bmp(b"\0\0" * 1024 + b"\0\1", (1024, 1024), compression=1),
    "RLE8, deltas": lambda: bmp(b"\0\2\xff\xff" * 100_000 + b"\0\1", (1024, 1024), compression=1),
    "RLE8, absolute runs": lambda: bmp(b"\0\xff" + bytes(256) + b"\0\1", compression=1),
    "RLE8, pairs of one pixel": lambda: bmp(b"\1\5" * MEGABYTE + b"\0\1", (1000, 1000), compression=1),
    "RLE4": lambda: bmp(b"\x1c\x05\0\0" * 28 + b"\0\1", bits=4, compression=2, palette=bytes(64)),
    "RLE8 of 7000 by 7000": lambda: bmp(b"\0\1", (7000, 7000), compression=1),
    "bit fields": lambda: bmp(bytes(28 * 56), bits=16, compression=3, palette=struct.pack("<III", 0xF800, 0x7E0, 0x1F)),
    "bit fields that overlap": lambda: bmp(
        bytes(28 * 112), bits=32, compression=3, palette=struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    ),
    "bit fields of an alpha": lambda: bmp(bytes(28 * 112), bits=32, compression=3, palette=b"", header=124),
    "OS/2": lambda: bmp(bytes(28 * 28), header=12, palette=bytes(768)),
    "OS/2, version 2": lambda: bmp(bytes(28 * 28), header=64),
    "header of 108": lambda: bmp(bytes(28 * 28), header=108),
    "header of 13": lambda: bmp(bytes(28 * 28), header=13),
    "palette of 2**31": lambda: bmp(bytes(28 * 28), colours=2**31 - 1),
    "palette of a million": lambda: bmp(bytes(28 * 28), colours=MEGABYTE, palette=bytes(4 * MEGABYTE)),
    "JPEG in a BMP": lambda: bmp(jpeg(), bits=0, compression=4, palette=b""),
    "upside down": lambda: bmp(bytes(28 * 28), (28, -28)),
    "height of -2**31": lambda: bmp(bytes(28 * 28), (28, -(2**31))),
    "width of -1": lambda: bmp(bytes(28 * 28), (-1, 28)),
    "7000 by 7000 without pixels": lambda: bmp(b"", (7000, 7000)),
    "1 bit, 7000 by 7000": lambda: bmp(bytes(876 * 7000), (7000, 7000), bits=1, palette=bytes(8)),
    "2 bits": lambda: bmp(bytes(28 * 28), bits=2, palette=bytes(16)),
    "pixels before the file": lambda: b"BM" + struct.pack("<IHHI", 99, 0, 0, 0) + bmp(b"x" * 784)[14:],
}


HOSTILE: Mapping[str, Mapping[str, Callable[[], bytes]]] = {
    "image/png": PNGS,
    "image/jpeg": JPEGS,
    "image/gif": GIFS,
    "image/webp": WEBPS,
    "image/bmp": BMPS,
}
"""Media type → name → function that builds the file."""


def hostile_images() -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Name, media type, and function that builds the file."""
    for media_type, files in HOSTILE.items():
        for name, make in files.items():
            yield f"{media_type.removeprefix('image/').upper()}, {name}", media_type, make


def _save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _tables(marker: int) -> bytes:
    """All segments with this marker of an ordinary JPEG."""
    whole, found, position = jpeg(), b"", 0
    while (position := whole.find(marker.to_bytes(2, "big"), position)) >= 0:
        length = int.from_bytes(whole[position + 2 : position + 4], "big")
        found += whole[position : position + 2 + length]
        position += 2 + length
    return found


def smallest_png() -> bytes:
    """One grey pixel."""
    return png(side=1)
