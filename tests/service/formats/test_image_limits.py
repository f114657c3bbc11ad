"""Pictures of few bytes or few pixels that would keep the service busy for seconds or hours."""

import io
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageCms import ImageCmsProfile, createProfile

from service.errors import TooLarge, UnreadableBody
from service.formats import image_limits
from service.formats.images import memory_of, open_image, to_array
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
    "EXIF": lambda: png(chunk(b"eXIf", exif(5000, 2_000_000))),
    "EXIF after the pixels": lambda: png(after=chunk(b"eXIf", exif(5000, 2_000_000))),
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


UNREAD: dict[str, Callable[[], bytes]] = {
    "colour profiles": lambda: png(chunk(b"iCCP", b"p\0\0" + MEGABYTE) * 1000),
    "texts": lambda: png(chunk(b"zTXt", b"t\0\0" + MEGABYTE) * 1000, after=chunk(b"zTXt", b"t\0\0" + MEGABYTE) * 1000),
    "international texts": lambda: png(chunk(b"iTXt", b"t\0\1\0\0\0" + MEGABYTE) * 1000),
    "EXIF as text": lambda: png(chunk(b"zTXt", b"Raw profile type exif\0\0" + MEGABYTE) * 1000),
    "EXIF as text that is no hex": lambda: png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n9\nzz")),
    "an animation": lambda: png(chunk(b"acTL", struct.pack(">II", 2**31, 0)) + chunk(b"fcTL", bytes(26))),
    "a chunk with a wrong checksum": lambda: png(chunk(b"tIME", b"now")[:-1] + b"x"),
    "EXIF that is none": lambda: png(chunk(b"eXIf", b"not TIFF")),
    "EXIF whose table is elsewhere": lambda: png(chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")),
    "EXIF cut short": lambda: png(chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x09" + bytes(20))),
    **{
        f"an orientation of type {kind}": lambda kind=kind: png(chunk(b"eXIf", one_tag(kind, 2**16)))  # type: ignore[misc]
        for kind in range(14)
    },
}


def one_tag(kind: int, count: int) -> bytes:
    """EXIF with an orientation that should be one SHORT."""
    return b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, kind, count, 6, 0) + bytes(60_000)


@pytest.mark.parametrize("what", UNREAD)
def test_what_the_pixels_do_not_need_is_not_read(what: str) -> None:
    body = UNREAD[what]()
    begun = time.perf_counter()
    assert not read(body).any()
    assert time.perf_counter() - begun < 0.2


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


@pytest.mark.parametrize("marker", [*range(0xE1, 0xEE), 0xEF, 0xFE])
def test_segments_that_the_pixels_do_not_need_are_not_read(marker: int) -> None:
    about = (
        b"Exif\0\0" + one_tag(5, 2**31),
        b"ICC_PROFILE\0\1\1" + bytes(9),
        b"MPF\0" + exif(5, 9),
        b"Photoshop 3.0\0",
        b"",
    )
    body = jpeg(b"".join(segment(marker, content) for content in about) * 20)
    assert (read(body) == 128).all()
    assert not open_image(body, 10**6).info.keys() & {"icc_profile", "mp", "photoshop", "comment"}


@pytest.mark.parametrize(
    "before", [b"\xff\xd8", b"\xff\xd0", b"\xff\x01", b"\xff\x00", b"\xff\xfe\0\0", b"\xff\xfe\0\1"]
)
def test_segments_of_no_length_are_refused(before: bytes) -> None:
    """Another decoder might find EXIF behind them."""
    with pytest.raises(UnreadableBody):
        read(jpeg(before + segment(0xE1, b"Exif\0\0" + exif(1000, 9))))


def test_what_the_colours_need_is_read() -> None:
    cmyk = Image.new("CMYK", (28, 28), (10, 200, 30, 40))
    body = picture(cmyk, "JPEG", quality=100)
    assert b"Adobe" in body  # says that they are inverted
    assert np.allclose(read(body), np.asarray(cmyk.convert("L")), atol=3)


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16", "LA", "CMYK"])
@pytest.mark.parametrize("invert", [False, True])
def test_strips_are_what_the_whole_picture_is(monkeypatch: pytest.MonkeyPatch, mode: str, invert: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 31, 4), np.uint8)
    image = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257)
    elif mode != "RGBA":
        image = image.convert("LA" if mode == "LA" else "RGB").convert(mode)
    body = picture(image, "TIFF")

    def pixels(strip: int) -> NDArray[np.float32]:
        monkeypatch.setattr("pictures.pixels.STRIP_PIXELS", strip)
        with Image.open(io.BytesIO(body)) as opened:
            return to_array(opened, (3, 50, 31), fit="stretch", invert=invert)

    assert np.array_equal(pixels(31), pixels(10**6))
    assert np.array_equal(pixels(100), pixels(10**6))


def test_a_large_webp_is_refused() -> None:
    with pytest.raises(TooLarge, match="Send it as a JPEG"):
        open_image(picture(Image.new("L", (3000, 3000)), "WEBP", lossless=True, quality=0, method=0), 10**8)


def test_a_gif_of_two_palettes() -> None:
    """A coloured one for all frames, a grey one for the first: 41 bytes."""
    body = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes([255, 0, 0, 0, 255, 0])
    body += b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0x80) + bytes([0, 0, 0, 1, 1, 1]) + b"\x02\x02\x44\x01\0;"
    assert len(body) == 41
    with suppress(UnreadableBody):  # Pillow 13 cannot convert it
        assert read(body).shape == (28, 28)


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
        answer.json()["detail"]
        == f"Part 2 is an image of 1×100000 pixels; sides of at most {image_limits.SIDE} are taken."
    )


def test_arithmetic_coding_is_refused() -> None:
    """Some hundred bytes of it take seconds."""
    body = picture(GREY, "JPEG")
    for frame in (0xC9, 0xCA):
        with pytest.raises(TooLarge, match="arithmetic-coded"):
            read(body.replace(b"\xff\xc0", bytes([0xFF, frame]), 1))


def test_a_png_of_empty_blocks_is_refused() -> None:
    body = png(b"".join(chunk(b"IDAT", bytes(2**16)) for _ in range(20)))
    with pytest.raises(TooLarge, match="bytes for 28×28 pixels"):
        read(body)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_grey_is_black(depth: int) -> None:
    """Pillow scales the greys of few bits, but not the one that is transparent."""
    most = 2**depth - 1
    row = b"\0" + bytes([0xFF]) * (28 * depth // 8 + 1)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, depth, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(row[: 1 + (28 * depth + 7) // 8] * 28))
    for clear in (0, most):
        body = SIGNATURE + head + chunk(b"tRNS", struct.pack(">H", clear)) + data + chunk(b"IEND")
        assert (read(body) == (255 if clear == 0 else 0)).all()


def test_a_lossless_webp_is_charged_for_its_tables() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
    lossless, lossy = (picture(noise, "WEBP", lossless=lossless) for lossless in (True, False))
    taken = [memory_of(open_image(body, 10**6), (1, 28, 28), body) for body in (lossless, lossy)]
    assert taken[0] > taken[1] + 40_000_000
