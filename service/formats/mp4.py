"""Frames → MP4 (ISO/IEC 14496-14) with H.264, by PyAV and x264: 8 bits, 4:2:0, in the colours of BT.709.

PyAV's wheels contain FFmpeg and x264, which is under the GPL.
"""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

ByteArray = npt.NDArray[np.uint8]

CRF = "18"
"""x264's constant rate factor, for a quality that is about visually lossless; diffusers' `export_to_video` has 25."""
PRESET = "veryfast"
"""x264's preset: its default takes twice the time."""
MAX_DENOMINATOR = 1001
"""Of frames per second as a fraction; NTSC's is 30000/1001."""
INDEX_BYTES, INDEX_FRAME_BYTES = 4096, 32
"""Space that is left for the index, in front of the frames: for its head, and per frame, of which it has 8 to 24."""


class Mp4Writer:
    """Writes a fragmented MP4, which can be played while it arrives.

    x264 looks at no later frames, so that it holds few frames and returns each at once.
    """

    def __init__(self, height: int, width: int, fps: float) -> None:
        """Begin a video of `fps` frames per second, `height`×`width` pixels each."""
        self._file = _Pieces()
        options = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
        self._container = av.open(self._file, "w", format="mp4", container_options=options)
        self._stream = _add_stream(self._container, height, width, fps, tune="zerolatency")

    def write(self, frames: ByteArray) -> bytes:
        """Write frames (T, H, W, C); return what the file has got since the last call."""
        _encode(self._container, self._stream, frames)
        return self._file.take()

    def close(self) -> bytes:
        """End the video; return the last of the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._file.take()


def write_mp4(frames: ByteArray, fps: float) -> bytes:
    """Write frames (T, H, W, C) as an MP4 whose index is at its beginning."""
    count, height, width, _ = frames.shape
    file = io.BytesIO()
    options = {"moov_size": str(INDEX_BYTES + INDEX_FRAME_BYTES * count)}
    with av.open(file, "w", format="mp4", container_options=options) as container:
        stream = _add_stream(container, height, width, fps)
        _encode(container, stream, frames)
        container.mux(stream.encode(None))
    return file.getvalue()


def _add_stream(container: OutputContainer, height: int, width: int, fps: float, **options: str) -> VideoStream:
    rate = Fraction(fps).limit_denominator(MAX_DENOMINATOR)
    stream = container.add_stream("libx264", rate, {"crf": CRF, "preset": PRESET, **options})
    context = stream.codec_context
    context.height, context.width = height + height % 2, width + width % 2  # 4:2:0 has a colour per 2×2 pixels
    context.pix_fmt = "yuv420p"
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_trc, context.color_primaries = ColorTrc.BT709, ColorPrimaries.BT709
    context.thread_count = 1
    return stream


def _encode(container: OutputContainer, stream: VideoStream, frames: ByteArray) -> None:
    """Encode frames (T, H, W, C); odd sides get their last pixels twice."""
    _, height, width, channels = frames.shape
    for frame in frames:
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        picture = (
            av.VideoFrame.from_ndarray(padded, "rgb24")
            if channels == 3
            else av.VideoFrame.from_ndarray(padded[:, :, 0], "gray")
        )
        container.mux(
            stream.encode(
                picture.reformat(
                    format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
                )
            )
        )


class _Pieces:
    """A file without a position, as of a stream."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return and drop what was written."""
        written = b"".join(self._pieces)
        self._pieces.clear()
        return written
