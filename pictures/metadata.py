"""Remove metadata from PNG and JPEG files, so that texts, colour profiles, animations and EXIF are never parsed.

Pillow gets only what the pixels need; EXIF is returned as bytes, for the orientation.
"""

from __future__ import annotations

from pictures.errors import PictureError, PictureTooLarge

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = 20_000
"""Most chunks of a PNG; encoders write at most one per 8 kB of pixels."""
ANCILLARY = 0x20
"""Bit of the first letter of a chunk type: decoders may ignore the chunk (ISO/IEC 15948, 5.4)."""

JPEG_SIGNATURE = b"\xff\xd8\xff"
JPEG_SEGMENTS = 300
"""Most segments before the pixels."""
START_OF_SCAN = 0xDA
WITHOUT_LENGTH = (0x00, 0x01, *range(0xD0, 0xDA))
"""Markers that no valid JPEG has before its pixels; decoders disagree on what follows them."""
ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
"""Arithmetic-coded frames, which cameras and browsers do not write; some hundred bytes take seconds to decode."""
APPLICATION, ADOBE, COMMENT = range(0xE1, 0xF0), 0xEE, 0xFE
"""Markers of segments (ITU-T T.81, annex B). APP0 (JFIF) is kept, and Adobe's, which defines the channels."""


def without_metadata(picture: bytes, name: str) -> tuple[bytes, bytes]:
    """Return a PNG or JPEG without its metadata (any other file unchanged), and its EXIF.

    Raises:
        PictureTooLarge: The file has too many parts, or takes too long to decode.
        PictureError: The segments of a JPEG are invalid.

    """
    if picture.startswith(PNG_SIGNATURE):
        return _pixels_of_png(picture, name)
    if picture.startswith(JPEG_SIGNATURE):
        return _pixels_of_jpeg(picture, name)
    return picture, b""


def _pixels_of_png(png: bytes, name: str) -> tuple[bytes, bytes]:
    kept: list[bytes] = []
    exif = b""
    begin = position = len(PNG_SIGNATURE)
    for _ in range(PNG_CHUNKS):
        kind = png[position + 4 : position + 8]
        if not kind or kind == b"IEND":
            break
        end = position + 12 + int.from_bytes(png[position : position + 4])
        if kind[0] & ANCILLARY and kind != b"tRNS":
            if kind == b"eXIf":
                exif = png[position + 8 : end - 4]
            kept.append(png[begin:position])
            begin = end
        position = end
    else:
        raise PictureTooLarge(f"{name} is a PNG of more than {PNG_CHUNKS} chunks.")
    return (b"".join((PNG_SIGNATURE, *kept, png[begin:])) if kept else png), exif


def _pixels_of_jpeg(jpeg: bytes, name: str) -> tuple[bytes, bytes]:
    kept: list[bytes] = []
    exif = b""
    begin, position = 0, 2
    for _ in range(JPEG_SEGMENTS):
        if jpeg[position : position + 1] != b"\xff":
            break
        marker = jpeg[position + 1 : position + 2]
        if not marker or marker[0] == START_OF_SCAN:
            break
        if marker == b"\xff":  # fill bytes
            position += 1
            continue
        length = int.from_bytes(jpeg[position + 2 : position + 4])
        if marker[0] in ARITHMETIC:
            raise PictureTooLarge(f"{name} is an arithmetic-coded JPEG, which takes too long to decode.")
        if marker[0] in WITHOUT_LENGTH or length < 2:
            raise PictureError(f"{name} is not a whole image: its header cannot be read.")
        end = position + 2 + length
        if (marker[0] in APPLICATION and marker[0] != ADOBE) or marker[0] == COMMENT:
            if not exif and jpeg[position + 4 : position + 10] == b"Exif\0\0":
                exif = jpeg[position + 4 : end]
            kept.append(jpeg[begin:position])
            begin = end
        position = end
    else:
        raise PictureTooLarge(f"{name} is a JPEG of more than {JPEG_SEGMENTS} segments.")
    return (b"".join((*kept, jpeg[begin:])) if kept else jpeg), exif
