"""The orientation of a picture by its EXIF, read without parsing the rest.

Parsing all of EXIF takes seconds for some files: millions of fractions, or entries that share their values. If the tag
does not conform to CIPA DC-008 (Exif 2.32, 4.6.4), the picture is not turned.
"""

from __future__ import annotations

import struct

from PIL import Image
from PIL.Image import Transpose

ORIENTATION, SHORT = 0x0112, 3
"""The tag Orientation, and its type."""
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""Transposition by the value of the tag; 1 is upright."""
ON_ITS_SIDE = (5, 6, 7, 8)
"""Values that exchange width and height."""
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


def read_orientation(image: Image.Image) -> int:
    """Return the orientation, 1 to 8, of an opened image; 1 without a valid tag."""
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    order = BYTE_ORDERS.get(exif[:4])
    if order is None:
        return 1
    try:
        (table,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, table)
        for tag, kind, length, value, _ in struct.iter_unpack(
            f"{order}HHIHH", exif[table + 2 : table + 2 + 12 * count]
        ):
            if tag == ORIENTATION:
                return value if kind == SHORT and length == 1 and value in TURNS else 1
    except struct.error:  # truncated
        pass
    return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width of the upright picture."""
    width, height = image.size
    return (width, height) if read_orientation(image) in ON_ITS_SIDE else (height, width)
