"""Open pictures in memory: PNG, JPEG, WebP, BMP and GIF."""

from __future__ import annotations

import io

from PIL import Image, ImageFile, UnidentifiedImageError, WebPImagePlugin  # noqa: F401 - see FORMATS
from PIL.PngImagePlugin import PngImageFile

from pictures.errors import PictureError, PictureTooLarge
from pictures.metadata import PNG_SIGNATURE

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/gif": "GIF",
}
"""Accepted media types and Pillow's names for them. No other format of Pillow is tried, nor imported: it would import
all its sixty plugins, in 35 ms, to find the one for WebP."""
GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Step between two grey levels of a PNG with 2 or 4 bits, by Pillow's raw mode."""


def open_picture(file: io.BytesIO, exif: bytes, pixel_limit: int, name: str) -> ImageFile.ImageFile:
    """Read the header of a picture; `file` and `exif` come from `without_metadata`.

    Raises PictureTooLarge for more than `pixel_limit` pixels, PictureError for what cannot be read; their messages
    begin with `name`.
    """
    try:
        if file.getvalue().startswith(PNG_SIGNATURE):  # detecting the format takes as long as reading a small PNG
            image: ImageFile.ImageFile = PngImageFile(file)
        else:
            image = Image.open(file, formats=tuple(FORMATS.values()))
    except UnidentifiedImageError as error:
        expected = ", ".join(FORMATS.values())
        raise PictureError(f"{name} is not an image: none of {expected} could be recognised in it.") from error
    except Image.DecompressionBombError as error:
        raise PictureTooLarge(f"{name} is an image of more than {pixel_limit} pixels.") from error
    except Exception as error:  # Pillow's parsers raise exceptions of many types
        raise PictureError(f"{name} is not a whole image: its header cannot be read.") from error
    if image.width * image.height > pixel_limit:
        raise PictureTooLarge(
            f"{name} is an image of {image.width}×{image.height} pixels; at most {pixel_limit} are taken."
        )
    if exif:
        image.info["exif"] = exif
    if "transparency" in image.info and image.tile and image.tile[0].args in GREY_STEPS:
        image.info["transparency"] *= GREY_STEPS[image.tile[0].args]  # Pillow scales the samples, but not this
    return image
