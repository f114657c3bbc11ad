"""Frames → an animated WebP, by Pillow."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

ByteArray = npt.NDArray[np.uint8]

QUALITY = 90
"""Pillow's quality, as of JPEG responses."""
METHOD = 2
"""libwebp's effort, 0 to 6: its default, 4, takes twice the time for files a thirtieth smaller."""


def write_webp(frames: ByteArray, fps: float) -> bytes:
    """Write frames (T, H, W, C) as a WebP that repeats for ever; times are rounded to milliseconds."""
    ends = np.rint(np.arange(len(frames) + 1) * 1000 / fps).astype(int)
    pictures = [Image.fromarray(frame[:, :, 0] if frame.shape[2] == 1 else frame) for frame in frames]
    file = io.BytesIO()
    pictures[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=np.diff(ends).tolist(),
        loop=0,
        quality=QUALITY,
        method=METHOD,
    )
    return file.getvalue()
