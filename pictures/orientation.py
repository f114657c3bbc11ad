"""How a picture has to be turned to be upright, by its EXIF: one tag, read without the rest.

A parser of all of EXIF takes seconds for some files: millions of fractions, or entries that share their values. Where
the tag is not as CIPA DC-008 (Exif 2.32, 4.6.4) has it the picture stays as it is.
"""

from __future__ import annotations

import struct

from PIL import Image
from PIL.Image import Transpose

ORIENTATION, SHORT = 0x0112, 3
"""A tag, and the type of its value."""
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""By the tag's value; 1 is upright."""
ON_ITS_SIDE = (5, 6, 7, 8)
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


def read_orientation(image: Image.Image) -> int:
    """1 to 8, of an image that was opened and need not be decoded; 1 where nothing else is said."""
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
    except struct.error:  # it is cut short
        pass
    return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width, once turned."""
    width, height = image.size
    return (width, height) if read_orientation(image) in ON_ITS_SIDE else (height, width)
