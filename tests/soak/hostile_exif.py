"""Blocks of EXIF that try to crash, slow down or mislead parsers."""

from __future__ import annotations

import struct
from collections.abc import Callable

ORIENTATION, MAKER_NOTE, EXIF_IFD = 0x0112, 0x927C, 0x8769
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
"""EXIF types."""
SIZES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1}


def exif(*entries: tuple[int, int, int, bytes], order: str = ">") -> bytes:
    """A TIFF header and one IFD; each entry is (tag, type, count, value), longer values follow the IFD."""
    head = b"MM\0*" if order == ">" else b"II*\0"
    table, values = b"", b""
    start = 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        field = value.ljust(4, b"\0")
        if len(value) > 4:
            field = struct.pack(order + "I", start + len(values))
            values += value
        table += struct.pack(order + "HHI", tag, kind, count) + field
    return head + struct.pack(order + "I", 8) + struct.pack(order + "H", len(entries)) + table + bytes(4) + values


def orientation(kind: int, count: int = 1) -> bytes:
    """EXIF whose orientation has another type than SHORT, or more values than one."""
    return exif((ORIENTATION, kind, count, (b"\0\0\0\6" * 2 * count)[: SIZES[kind] * count]))


def overlapping_exif(entries: int, size: int) -> bytes:
    """All entries share the same `size` bytes."""
    start = 8 + 2 + 12 * entries + 4
    table = b"".join(struct.pack(">HHII", 1000 + number, UNDEFINED, size, start) for number in range(entries))
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", entries) + table + bytes(4 + size)


def looping_exif() -> bytes:
    """The next IFD, the EXIF IFD and the GPS IFD are all the first one."""
    return (
        b"MM\0*\0\0\0\x08\0\3"
        + struct.pack(">HHIHH", ORIENTATION, SHORT, 1, 6, 0)
        + struct.pack(">HHII", EXIF_IFD, LONG, 1, 8)
        + struct.pack(">HHII", 0x8825, LONG, 1, 8)
        + struct.pack(">I", 8)
    )


def warning_exif() -> bytes:
    """EXIF with thousands of entries that Pillow warns about: their data lies beyond the end."""
    table = b"".join(struct.pack(">HHII", 1000 + number, ASCII, 1000, 0x7FFFFF00) for number in range(5000))
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", 5000) + table + bytes(4)


EXIF_BLOCKS: dict[str, Callable[[], bytes]] = {
    "orientation BYTE": lambda: orientation(BYTE),
    "orientation ASCII": lambda: orientation(ASCII, 2),
    "orientation UNDEFINED": lambda: orientation(UNDEFINED, 8),
    "orientation RATIONAL": lambda: orientation(RATIONAL),
    "orientation of many SHORT": lambda: orientation(SHORT, 20_000),
    "orientation of many ASCII": lambda: orientation(ASCII, 60_000),
    "no TIFF": lambda: b"no TIFF at all",
    "empty": lambda: b"",
    "cut": lambda: orientation(SHORT)[:11],
    "loop": looping_exif,
    "overlap": lambda: overlapping_exif(5000, 2000),
    "overlap of megabytes": lambda: overlapping_exif(5000, 2_000_000),
    "warnings": warning_exif,
    "maker note": lambda: exif((ORIENTATION, SHORT, 1, b"\0\6"), (MAKER_NOTE, UNDEFINED, 30_000, b"Nikon\0" * 5000)),
    "unknown type": lambda: exif((ORIENTATION, 99, 1, b"\0\6\0\0")),
    "count beyond the end": lambda: exif((ORIENTATION, RATIONAL, 2**31, b"\0\0\0\x08")),
    "IFD beyond the end": lambda: b"II*\0\xff\xff\xff\x7f",
    "BigTIFF": lambda: b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + struct.pack("<Q", 2**40) + bytes(64),
}
"""Small blocks of EXIF, each put into PNG, JPEG and WebP."""
