"""Digits as files, and back."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from PIL.Image import Transpose

Bytes = NDArray[np.uint8]

ORIENTATION = 0x0112
STORED: dict[int, Transpose | None] = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}
"""How a camera that writes the EXIF orientation has turned the upright picture."""


def picture(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(digit: Bytes) -> bytes:
    """(H, W) grey or (H, W, 3) RGB."""
    return picture(Image.fromarray(digit))


def read_png(body: bytes) -> Bytes:
    with Image.open(io.BytesIO(body), formats=["PNG"]) as image:
        return np.asarray(image, np.uint8)


def npy(array: ArrayLike) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def read_npy(body: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.load(io.BytesIO(body), allow_pickle=False)
    return array


def read_mp4(body: bytes) -> Bytes:
    """The frames, (T, H, W, 3)."""
    with av.open(io.BytesIO(body), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(np.uint8)


def psnr(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in dB."""
    assert found.shape == expected.shape
    return float(10 * np.log10(255**2 / np.square(found.astype(float) - expected).mean()))


def check_mp4(body: bytes, frames: Bytes) -> None:
    """Compare the frames (T, H, W, 3) of an MP4; their colours have half of their resolution."""
    found, expected = (array.mean(3, keepdims=True) for array in (read_mp4(body), frames))
    assert psnr(found, expected) > 22


def phone_photo(digit: Bytes, orientation: int, width: int = 4000, height: int = 3000, **options: Any) -> bytes:
    """Dark ink on white paper in a JPEG, the digit as high as the picture and in its middle."""
    ink = Image.new("L", (width, height))
    ink.paste(Image.fromarray(digit).resize((height, height), Image.Resampling.NEAREST), ((width - height) // 2, 0))
    photo = Image.composite(Image.new("RGB", ink.size, (4, 2, 20)), Image.new("RGB", ink.size, (255, 255, 253)), ink)
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return picture(photo if turn is None else photo.transpose(turn), exif=exif, **{"file_format": "JPEG", **options})
