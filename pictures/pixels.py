"""Opened pictures → arrays of a model's shape."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageOps

from pictures.errors import PictureError
from pictures.orientation import TURNS, read_orientation
from vae.metadata import Fit

ByteArray = npt.NDArray[np.uint8]

STRIP_PIXELS = 2**18
"""Pixels converted by one call, which takes one or two milliseconds and may hold the GIL."""


def to_pixels(image: Image.Image, shape: tuple[int, ...], *, fit: Fit, invert: bool, name: str) -> ByteArray:
    """Decode an opened picture and bring it to `shape` (C, H, W), uint8; C is 1 (grey) or 3 (RGB).

    Samples of 16 bits, and those of mode I clipped to 16 bits, are divided by 257; those of mode F are clipped to 0 to
    255. Colours are inverted where asked, alpha is laid over black, EXIF orientation is applied. Colours become grey by
    ITU-R BT.601. `fit` brings the picture to H×W, with antialiasing: `contain` puts black bars beside it, `cover` cuts
    what goes beyond, `stretch` changes its proportions. A JPEG may be decoded at a part of its size.

    Raises PictureError, whose message begins with `name`.
    """
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    try:
        picture = _fit(_decode(image, mode, (width, height), invert=invert), (width, height), fit)
    except Exception as error:  # Pillow's decoders raise exceptions of many types
        raise PictureError(f"{name} is not a whole image: its pixels cannot be decoded.") from error
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _decode(image: Image.Image, mode: str, size: tuple[int, int], *, invert: bool) -> Image.Image:
    """Decode to `mode` L or RGB, and turn upright; decode a JPEG at 1/2, 1/4 or 1/8 if that is enough for `size`."""
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

    Works in strips, because some conversions of Pillow hold the GIL, and each copies the picture.
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
    if image.mode.startswith("I"):  # Pillow's own conversion would clip 16 bits to 8
        wide, clear = np.asarray(image).clip(0, 65535), image.info.get("transparency")
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
