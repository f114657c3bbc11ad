"""Pictures of few bytes or few pixels that would keep the service busy for seconds or hours."""

import struct
import time
import zlib
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.ImageCms import ImageCmsProfile, createProfile

from service import effort
from service.errors import TooLarge, UnreadableBody
from service.images import open_image, to_array
from tests.service.pictures import Bytes, picture

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY = Image.new("L", (28, 28), 128)
PARTS = 300_000


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(before: bytes = b"", after: bytes = b"", size: tuple[int, int] = (28, 28)) -> bytes:
    """A grey PNG with more chunks before and after its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress((b"\0" * (size[0] + 1)) * size[1], 1))
    return SIGNATURE + head + before + data + after + chunk(b"IEND")


def jpeg(before: bytes = b"", scans: int = 1, between: bytes = b"") -> bytes:
    """A progressive JPEG with more segments before all others, its last scan repeated."""
    whole = picture(GREY, "JPEG", progressive=True)
    scan, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    return whole[:2] + before + whole[2:end] + (between + whole[scan:end]) * (scans - 1) + whole[end:]


def gif(extension: bytes) -> bytes:
    whole = picture(GREY, "GIF")
    begin = 13 + (3 << (whole[10] & 7) + 1)
    return whole[:begin] + extension + whole[begin:]


def run_length_bmp(width: int, height: int, runs: bytes) -> bytes:
    start = 14 + 40 + 4 * 256
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + head + bytes(4 * 256) + runs


def exif(entries: int, size: int) -> bytes:
    """Each entry tells of the same `size` bytes."""
    table = b"".join(struct.pack(">HHII", 1000 + i, 2, size, 8) for i in range(entries))
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", entries) + table + bytes(4 + size)


MEGABYTE = zlib.compress(bytes(1_000_000))
FLOODS: dict[str, Callable[[], bytes]] = {
    "chunks of a PNG": lambda: png(chunk(b"prVt") * PARTS),
    "chunks after its pixels": lambda: png(after=chunk(b"prVt") * PARTS),
    "texts": lambda: png(b"".join(chunk(b"tEXt", b"%d\0" % i) for i in range(PARTS))),
    "empty pixels": lambda: png(chunk(b"IDAT") * PARTS),
    "colour profiles": lambda: png(chunk(b"iCCP", b"p\0\0" + MEGABYTE) * 20),
    "EXIF": lambda: png(chunk(b"eXIf", exif(5000, 2_000_000))),
    "EXIF after the pixels": lambda: png(after=chunk(b"eXIf", exif(5000, 2_000_000))),
    "EXIF as text": lambda: png(
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n9\n" + b"00" * 70_000))
    ),
    "rows": lambda: png(size=(1, 100_000)),
    "columns": lambda: png(size=(100_000, 1)),
    "segments of a JPEG": lambda: jpeg(b"\xff\xfe\0\2" * PARTS),
    "bytes that fill": lambda: jpeg(b"\xff" * PARTS),
    "scans": lambda: jpeg(scans=60),
    "segments between scans": lambda: jpeg(scans=2, between=b"\xff\xfe\0\2" * 2000),
    "an end within a comment": lambda: jpeg(scans=60, between=b"\xff\xfe\0\4\xff\xd9"),
    "extensions of a GIF": lambda: gif(b"!\x01\x01x\0" * PARTS),
    "comments": lambda: gif(b"!\xfe" + b"\x01x" * PARTS + b"\0"),
    "runs of a BMP": lambda: run_length_bmp(2000, 2000, b"\0\0" * 2000),
    "runs beyond its row": lambda: run_length_bmp(100, 100, b"\xff\1" * PARTS),
}


def read(body: bytes) -> Bytes:
    pixels = to_array(open_image(body, 10**8), (1, 28, 28), fit="contain", invert=False)
    grey: Bytes = np.round(pixels[0] * 255).astype(np.uint8)
    return grey


@pytest.mark.parametrize("what", FLOODS)
def test_floods_are_refused(what: str) -> None:
    body = FLOODS[what]()
    refusal = r"^The body has more than 65536 bytes of EXIF\.$" if "EXIF" in what else r"^The body is .*\.$"
    begun = time.perf_counter()
    with pytest.raises((TooLarge, UnreadableBody), match=refusal):
        read(body)
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("scans", [1, 20])
def test_progressive_pictures_are_taken(scans: int) -> None:
    assert (read(jpeg(scans=scans)) == 128).all()


def test_a_video_behind_the_picture_is_not_searched() -> None:
    """Phones append one, with whatever bytes it has."""
    assert (read(picture(GREY, "JPEG") + b"\xff\xda" * 10_000) == 128).all()


def test_pictures_with_all_that_programs_add_are_taken() -> None:
    profile = ImageCmsProfile(createProfile("sRGB")).tobytes()
    about = Image.Exif()
    about[0x010E] = "x" * 50_000
    for file_format in ("PNG", "JPEG", "WEBP"):
        body = picture(GREY, file_format, icc_profile=profile, exif=about, quality=100)
        np.testing.assert_allclose(read(body).astype(int), 128, atol=1)
    assert (read(png(b"".join(chunk(b"tEXt", b"%d\0x" % i) for i in range(500)))) == 0).all()
    assert (read(gif(b"!\xfe" + (b"\xff" + b"x" * 255) * 500 + b"\0")) == 128).all()
    assert (read(run_length_bmp(28, 28, b"\x1c\0\0\0" * 28)) == 0).all()


def test_small_pieces_are_read() -> None:
    """As encoders write them that hold little in memory."""
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000), np.uint8)
    whole = picture(Image.fromarray(noise))
    assert len(whole) > 1_000_000
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in noise), 1)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1000, 1000, 8, 0, 0, 0, 0))
    pieces = b"".join(chunk(b"IDAT", data[start : start + 256]) for start in range(0, len(data), 256))
    assert np.array_equal(read(SIGNATURE + head + pieces + chunk(b"IEND")), read(whole))


def test_a_flood_in_a_form_is_named(client: httpx.Client) -> None:
    files = [("image", ("x", body, "image/png")) for body in (picture(GREY), png(size=(1, 100_000)))]
    answer = client.post("/encode", files=files)
    assert answer.status_code == 413
    assert (
        answer.json()["detail"] == f"Part 2 is an image of 1×100000 pixels; sides of at most {effort.SIDE} are taken."
    )
