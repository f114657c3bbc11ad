"""Video files by media type: MP4, and WebP as an animation."""

from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from service.errors import NotAcceptable, TooLarge
from service.formats.webp import write_webp

ByteArray = npt.NDArray[np.uint8]

MP4, WEBP = "video/mp4", "image/webp"
VIDEO_TYPES = (MP4, WEBP)
SIDES = {MP4: 16_384, WEBP: 16_383}
"""Longest sides in pixels: x264's maximum, and the format's."""
WRITER_BYTES = 12
"""Memory that writing a video takes, in bytes per pixel of all frames: Pillow's copies, or x264's frames in flight."""


def check_video(media_type: str, height: int, width: int) -> None:
    """Raise NotAcceptable for an MP4 where PyAV is missing, and TooLarge for frames that are too large for the type."""
    if media_type == MP4 and not find_spec("av"):
        raise NotAcceptable("An MP4 wants PyAV where the service runs: pip install 'vae-service[video]'.")
    if max(height, width) > (side := SIDES[media_type]):
        frames = f"The frames would have {height}×{width} pixels"
        raise TooLarge(f"{frames}; {media_type} has at most {side} on a side.")


def write_video(media_type: str, frames: ByteArray, fps: float) -> bytes:
    """Write frames (T, H, W, C), of which `check_video` has seen the size, as one of VIDEO_TYPES."""
    if media_type == WEBP:
        return write_webp(frames, fps)
    from service.formats.mp4 import write_mp4  # noqa: PLC0415 - an extra

    return write_mp4(frames, fps)
