"""MP4 and WebP, read back by PyAV and Pillow."""

from __future__ import annotations

import io
import sys

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from service.errors import NotAcceptable, TooLarge
from service.formats.mp4 import Mp4Writer, write_mp4
from service.formats.videos import MP4, VIDEO_TYPES, WEBP, check_video, write_video
from tests.service.pictures import Bytes, psnr, read_mp4

HEIGHT, WIDTH = 64, 48


@pytest.fixture(scope="module")
def frames(images: NDArray[np.uint8]) -> Bytes:
    """Twelve digits, each in another colour, (12, 64, 48, 3)."""
    enlarged = [Image.fromarray(digit).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for digit in images[:12]]
    colours = np.linspace([255, 80, 0], [0, 160, 255], 12)
    return (np.stack([np.asarray(digit) for digit in enlarged])[..., None] / 255 * colours[:, None, None]).astype(
        np.uint8
    )


@pytest.mark.parametrize("fps", [8, 24, 30000 / 1001])
def test_mp4_has_the_frames(frames: Bytes, fps: float) -> None:
    body = write_mp4(frames, fps)
    assert psnr(read_mp4(body), frames) > 30
    with av.open(io.BytesIO(body), "r") as container:
        (stream,) = container.streams
        assert isinstance(stream, av.VideoStream)
        assert (stream.frames, stream.codec_context.pix_fmt, stream.codec.name) == (12, "yuv420p", "h264")
        assert stream.average_rate is not None
        assert float(stream.average_rate) == pytest.approx(fps)
        assert container.duration == pytest.approx(12 / fps * 1e6, abs=1000)  # microseconds


def test_mp4_begins_with_its_index(frames: Bytes) -> None:
    for body in (write_mp4(frames, 24), write_mp4(frames.repeat(200, 0), 24)):  # the index of many frames fits too
        assert 0 < body.find(b"moov") < body.find(b"mdat")


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 150, 100)])
def test_mp4_keeps_colours(colour: tuple[int, int, int]) -> None:
    """A wrong matrix, or a wrong range, would shift them by ten to thirty."""
    plain = np.full((2, 32, 32, 3), colour, np.uint8)
    assert np.abs(read_mp4(write_mp4(plain, 24)).astype(int) - plain).max() <= 3


def test_mp4_pads_odd_sides(frames: Bytes) -> None:
    odd = frames[:, :63, :47]
    found = read_mp4(write_mp4(odd, 24))
    assert found.shape == (12, 64, 48, 3)
    assert psnr(found[:, :63, :47], odd) > 30
    assert psnr(found[:, 63], found[:, 62]) > 30


def test_grey_frames(frames: Bytes) -> None:
    grey = frames.max(3, keepdims=True)
    assert psnr(read_mp4(write_mp4(grey, 24)), grey.repeat(3, 3)) > 30
    with Image.open(io.BytesIO(write_video(WEBP, grey, 24))) as image:
        assert psnr(np.asarray(image.convert("RGB")), grey[0].repeat(3, 2)) > 30


def test_fragments_come_with_their_frames(frames: Bytes) -> None:
    """What has arrived can be played, but for the last frame, whose duration is not known yet."""
    writer = Mp4Writer(HEIGHT, WIDTH, 24)
    pieces = [writer.write(frames[:4]), writer.write(frames[4:5]), writer.write(frames[5:]), writer.close()]
    assert all(pieces)
    begun = read_mp4(pieces[0])
    assert len(begun) == 3
    assert psnr(begun, frames[:3]) > 30
    assert len(read_mp4(b"".join(pieces[:2]))) == 4
    assert psnr(read_mp4(b"".join(pieces)), frames) > 30


@pytest.mark.parametrize("fps", [8, 24])
def test_webp_has_the_frames(frames: Bytes, fps: float) -> None:
    with Image.open(io.BytesIO(write_video(WEBP, frames, fps))) as image:
        assert image.info["loop"] == 0  # for ever
        found, durations = [], []
        for frame in ImageSequence.Iterator(image):
            found.append(np.asarray(frame.convert("RGB")))
            durations.append(frame.info["duration"])
    assert psnr(np.stack(found), frames) > 30
    assert sum(durations) == round(12 * 1000 / fps)
    assert max(durations) - min(durations) <= 1


@pytest.mark.parametrize("media_type", VIDEO_TYPES)
def test_one_frame_is_a_video(frames: Bytes, media_type: str) -> None:
    body = write_video(media_type, frames[:1], 24)
    found = read_mp4(body)[0] if media_type == MP4 else np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
    assert psnr(found, frames[0]) > 30


@pytest.mark.parametrize(("media_type", "side"), [(MP4, 16_384), (WEBP, 16_383)])
def test_size_limits(media_type: str, side: int) -> None:
    check_video(media_type, 16, side)
    assert write_video(media_type, np.zeros((1, 16, side, 3), np.uint8), 24)
    with pytest.raises(TooLarge, match=f"16×{side + 1} pixels; {media_type} has at most {side} on a side"):
        check_video(media_type, 16, side + 1)


def test_mp4_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    check_video(WEBP, 16, 16)
    with pytest.raises(NotAcceptable, match=r"PyAV where the service runs: pip install 'vae-service\[video\]'"):
        check_video(MP4, 16, 16)
