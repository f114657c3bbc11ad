import io
import struct
import zlib
from functools import partial

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile

import service.formats.images
from pictures.opening import FORMATS
from service.errors import ServiceError, TooLarge, UnreadableBody
from service.formats.images import PLAIN_BYTES, open_image, to_array
from service.formats.png import write_png
from tests.service.pictures import ORIENTATION, STORED, Bytes, phone_photo, picture, png, read_png
from tests.vae.reference import Reference
from vae.metadata import Fit

NEAR = 0.1
"""How far a latent may lie from the plain picture's: JPEG and scaling cost something."""
FAR = 5 * NEAR
"""How far it lies at least where something was done wrong."""


def read(
    body: bytes, shape: tuple[int, int, int] = (1, 28, 28), fit: Fit = "contain", *, invert: bool = False
) -> Bytes:
    """As the service reads it, back in 0 to 255: (H, W), or (H, W, 3)."""
    array = to_array(open_image(body, 10**8), shape, fit=fit, invert=invert)
    assert (array.shape, array.dtype) == (shape, np.dtype(np.float32))
    pixels = np.round(array * 255).astype(np.uint8)
    return pixels[0] if shape[0] == 1 else pixels.transpose(1, 2, 0)


def distance(
    client: httpx.Client, reference: Reference, plain: Bytes, body: bytes, query: str = "", kind: str = "image/png"
) -> float:
    """From the plain digit's latent to the one that the service gives for `body`, in the worst dimension."""
    answer = client.post(f"/encode?{query}", content=body, headers={"content-type": kind})
    expected, _ = reference.encode(plain.reshape(1, 784) / 255)
    return float(np.abs(np.array(answer.json()["mean"]) - expected[0]).max())


# A photograph.


@pytest.mark.parametrize("orientation", STORED)
def test_phone_photo(client: httpx.Client, reference: Reference, images: Bytes, orientation: int) -> None:
    size = (4000, 3000) if orientation in (1, 3, 6, 8) else (1600, 1200)  # mirrored ones come from no camera
    measure = partial(distance, client, reference, images[0], kind="image/jpeg")
    photo = phone_photo(images[0], orientation, *size, quality=90)
    assert measure(photo, "invert=true&fit=cover") < NEAR
    assert measure(photo, "fit=cover") > FAR
    assert measure(photo, "invert=true&fit=contain") > FAR
    assert measure(photo, "invert=true&fit=stretch") > FAR


def test_wrong_turns_would_be_seen(client: httpx.Client, reference: Reference, images: Bytes) -> None:
    for turn in Transpose:
        assert distance(client, reference, images[0], picture(Image.fromarray(images[0]).transpose(turn))) > FAR


def test_phone_photo_of_two_pictures(client: httpx.Client, reference: Reference, images: Bytes) -> None:
    """Phones append a preview or a depth map (MPO), still calling it JPEG."""
    black = Image.new("RGB", (1600, 1200))
    photo = phone_photo(images[0], 6, 1600, 1200, file_format="MPO", save_all=True, append_images=[black])
    assert distance(client, reference, images[0], photo, "invert=true&fit=cover", "image/jpeg") < NEAR


# Every kind of file.


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(client: httpx.Client, reference: Reference, images: Bytes, kind: str) -> None:
    body = picture(Image.fromarray(images[0]), FORMATS[kind], quality=95, lossless=True)  # each takes what it knows
    assert distance(client, reference, images[0], body, kind=kind) < NEAR


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK"])
def test_every_colour_mode(images: Bytes, mode: str) -> None:
    image = Image.fromarray(images[0]).convert(mode)
    lossy = mode == "CMYK"
    body = picture(image, "JPEG", quality=100) if lossy else picture(image)
    np.testing.assert_allclose(read(body).astype(int), images[0], atol=3 if lossy else 0)


def test_sixteen_bits_are_scaled_not_clipped(client: httpx.Client, reference: Reference, images: Bytes) -> None:
    deep = picture(Image.fromarray(images[0].astype(np.uint16) * 257))
    assert open_image(deep, 10**6).mode == "I;16"
    assert np.array_equal(read(deep), images[0])
    assert np.array_equal(read(deep, invert=True), 255 - images[0])
    assert distance(client, reference, images[0], deep) < 1e-5
    clipped = np.where(images[0] > 0, 255, 0).astype(np.uint8)  # what 16 bits look like, cut off at 255
    assert distance(client, reference, images[0], png(clipped)) > NEAR


def raw_png(pixels: NDArray[np.uint16], colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits a channel, (H, W, channels), which Pillow cannot write."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    written = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def test_sixteen_bits_with_alpha(images: Bytes) -> None:
    deep = images[0].astype(np.uint16) * 257
    white = np.full_like(deep, 65535)
    assert np.array_equal(read(raw_png(np.stack([white, deep], 2), 4)), images[0])
    assert np.array_equal(read(raw_png(np.stack([deep, deep, deep], 2), 2)), images[0])
    assert np.array_equal(read(raw_png(np.stack([white, white, white, deep], 2), 6)), images[0])
    paper_is_clear = raw_png((65535 - deep)[:, :, None], 0, (b"tRNS", struct.pack(">H", 65535)))
    expected = np.where(images[0] > 0, 255 - images[0], 0)
    assert np.array_equal(read(paper_is_clear), expected)
    assert np.array_equal(read(paper_is_clear, invert=True), np.where(images[0] > 0, images[0], 0))


@pytest.mark.parametrize("invert", [False, True])
def test_one_bit(client: httpx.Client, reference: Reference, images: Bytes, invert: bool) -> None:
    """Black and white: the ink is where the plain picture is bright."""
    plain = np.where(images[0] > 127, 255, 0).astype(np.uint8)
    body = picture(Image.fromarray(255 - plain if invert else plain).convert("1"))
    assert open_image(body, 10**6).mode == "1"
    assert distance(client, reference, plain, body, f"invert={invert}") < 1e-5
    assert distance(client, reference, images[0], body, f"invert={invert}") < 3 * NEAR
    assert distance(client, reference, plain, body, f"invert={not invert}") > FAR


@pytest.mark.parametrize("invert", [False, True])
def test_palette_with_alpha(client: httpx.Client, reference: Reference, images: Bytes, invert: bool) -> None:
    """Ink of one colour, black or white; only its alpha tells where it is."""
    image = Image.frombytes("P", (28, 28), images[0].tobytes())
    image.putpalette([0 if invert else 255] * 768)
    body = picture(image, transparency=bytes(range(256)))
    assert open_image(body, 10**6).mode == "P"
    assert distance(client, reference, images[0], body, f"invert={invert}") < 1e-5
    assert distance(client, reference, images[0], body, f"invert={not invert}") > FAR


def test_alpha_is_laid_over_black(images: Bytes) -> None:
    colour, alpha = np.full((28, 28), 200, np.uint8), images[0]
    grey = picture(Image.merge("LA", [Image.fromarray(colour), Image.fromarray(alpha)]))
    np.testing.assert_allclose(read(grey).astype(int), alpha * (200 / 255), atol=1)
    np.testing.assert_allclose(read(grey, invert=True).astype(int), alpha * (55 / 255), atol=1)
    rgba = np.stack([colour, colour // 2, colour // 4, alpha], 2)
    rgb = read(picture(Image.fromarray(rgba)), (3, 28, 28))
    np.testing.assert_allclose(rgb.astype(int), rgba[:, :, :3] * (alpha[:, :, None] / 255), atol=1)


def test_one_transparent_grey(images: Bytes) -> None:
    body = picture(Image.fromarray(images[0]), transparency=253)
    assert np.array_equal(read(body), np.where(images[0] == 253, 0, images[0]))
    assert (images[0] == 253).any()


def test_grey_is_luma_and_colour_is_kept() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    np.testing.assert_allclose(read(png(rgb)).astype(int), rgb @ [0.299, 0.587, 0.114], atol=1)
    assert np.array_equal(read(png(rgb), (3, 28, 28)), rgb)
    assert np.array_equal(read(png(rgb), (3, 28, 28), invert=True), 255 - rgb)
    grey = rgb[:, :, 0]
    assert np.array_equal(read(png(grey), (3, 28, 28)), np.repeat(grey[:, :, None], 3, 2))


# Bringing a picture to the model's size.


def test_plain_picture_is_taken_as_it_is(images: Bytes) -> None:
    for fit in ("contain", "cover", "stretch"):
        assert np.array_equal(read(png(images[0]), fit=fit), images[0])
    assert np.array_equal(read(png(images[0]), invert=True), 255 - images[0])


@pytest.mark.parametrize("factor", [2, 5, 17])
def test_shrinking_averages(images: Bytes, factor: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28 * factor, 28 * factor), np.uint8)
    expected = noise.reshape(28, factor, 28, factor).mean((1, 3))
    np.testing.assert_allclose(read(png(noise)).astype(int), expected, atol=1)


def test_enlarging_is_smooth() -> None:
    steps = read(png(np.array([[0, 255]], np.uint8)), fit="stretch")[0].astype(int)
    assert (np.diff(steps) >= 0).all()
    assert (steps[0], steps[-1]) == (0, 255)
    assert len(set(steps.tolist())) > 5


WIDE = np.zeros((28, 112), np.uint8)
WIDE[:, :56] = 255  # its left half is white


def test_contain_has_bars_above_and_below() -> None:
    pixels = read(png(WIDE), fit="contain")
    assert not pixels[:10].any()
    assert not pixels[18:].any()
    assert (pixels[11:17, :13] == 255).all()
    assert not pixels[:, 15:].any()
    inverted = read(png(WIDE), fit="contain", invert=True)
    assert not inverted[:10].any()  # the bars are not a part of the picture
    assert (inverted[11:17, 15:] == 255).all()


def test_cover_cuts_the_sides() -> None:
    pixels = read(png(WIDE), fit="cover")
    assert (pixels[:, :14] == 255).all()
    assert not pixels[:, 14:].any()
    marked = WIDE.copy()
    marked[:, :40] = 77  # all of it is cut off
    assert np.array_equal(read(png(marked), fit="cover"), pixels)


def test_stretch_bends() -> None:
    pixels = read(png(WIDE), fit="stretch")
    assert (pixels[:, :14] == 255).all()
    assert not pixels[:, 14:].any()
    marked = WIDE.copy()
    marked[:, :40] = 77
    assert (read(png(marked), fit="stretch")[:, :10] == 77).all()


@pytest.mark.parametrize("fit", ["contain", "cover", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 28), (27, 29)])
def test_any_proportions(fit: Fit, size: tuple[int, int]) -> None:
    white = png(np.full(size, 255, np.uint8))
    pixels = read(white, fit=fit)
    if fit == "contain":
        assert set(np.unique(pixels)) <= {0, 255}
    else:
        assert pixels.min() == 255
    assert read(white, (3, 20, 30), fit).shape == (20, 30, 3)


def test_large_jpeg_is_not_decoded_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of its sides is enough; all of it would take 30 times as long."""
    decoded: list[tuple[int, int]] = []
    load = Image.Image.load

    def watched(image: Image.Image) -> object:
        decoded.append(image.size)
        return load(image)

    photo = picture(Image.new("L", (4000, 3000), 255), "JPEG")
    monkeypatch.setattr(Image.Image, "load", watched)
    assert read(photo, fit="stretch").min() == 255
    assert max(decoded) <= (500, 375)


# A small PNG, which is read without Pillow's reader of the file.


@pytest.mark.parametrize("shape", [(28, 28), (1, 1), (9, 17, 3), (64, 64)])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_a_plain_png_is_opened_with_its_pixels(shape: tuple[int, ...], level: int) -> None:
    pixels = np.random.default_rng(0).binomial(255, 0.5, shape).astype(np.uint8)
    body = picture(Image.fromarray(pixels), compress_level=level)
    image = open_image(body, 64 * 64)
    assert isinstance(image, ImageFile) == (len(body) > PLAIN_BYTES)
    assert np.array_equal(np.asarray(image), pixels)


def test_whatever_else_a_small_png_is_pillow_reads(images: Bytes) -> None:
    """Each byte wrong in turn, with checksums that are right or wrong; ends missing; each kind of PNG."""
    body, digit = png(images[0]), Image.fromarray(images[0])
    broken = [body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :] for position in range(len(body))]
    mended = [with_checksums(each) for each in broken]
    ends = [body[:length] for length in range(8, len(body))]
    kinds = [picture(digit.convert(mode)) for mode in ("1", "P", "LA", "RGBA", "I;16")]
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    late = body[:-12] + (len(turned) - 4).to_bytes(4) + turned + zlib.crc32(turned).to_bytes(4) + body[-12:]
    for each in [*broken, *mended, *ends, *kinds, picture(digit, dpi=(1, 1)), body + b"more", late]:
        told = outcome(each)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service.formats.images, "PLAIN_BYTES", 0)
            assert outcome(each) == told
    with pytest.raises(TooLarge, match="at most 783"):
        open_image(body, 783)


def outcome(body: bytes) -> bytes | str:
    """Pixels, or what is said."""
    try:
        return read(body).tobytes()
    except ServiceError as error:
        return error.detail


def with_checksums(body: bytes) -> bytes:
    """All that the lengths of its chunks lead to."""
    position, parts = 8, [body[:8]]
    while position + 12 <= len(body):
        data = body[position + 4 : position + 8 + int.from_bytes(body[position : position + 4])]
        parts += body[position : position + 4], data, zlib.crc32(data).to_bytes(4)
        position += len(data) + 8
    return b"".join((*parts, body[position:]))


# What cannot be read.


def test_header_is_enough_to_refuse(images: Bytes) -> None:
    body = png(images[0])
    with pytest.raises(TooLarge, match="28×28 pixels; at most 783"):
        open_image(body[:60], 783)
    assert open_image(body[:60], 784).size == (28, 28)


@pytest.mark.parametrize("body", [b"", b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"II*\0"])
def test_no_image(body: bytes) -> None:
    with pytest.raises(UnreadableBody, match=r"^Part 3 is not an image: none of PNG, .*, GIF"):
        open_image(body, 10**6, name="Part 3")


def test_missing_pixels(images: Bytes) -> None:
    image = open_image(png(images[0])[:-40], 10**6)
    with pytest.raises(UnreadableBody, match="pixels cannot be decoded"):
        to_array(image, (1, 28, 28), fit="contain", invert=False)


# The PNG that goes out.


def scanlines(images: Bytes) -> Bytes:
    """(N, H, W, C) → (N, H, 1 + W·C)."""
    return np.pad(images.reshape(*images.shape[:2], -1), ((0, 0), (0, 0), (1, 0)))


def test_colour_png() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), np.uint8)
    sheet = read_png(write_png(scanlines(rgb.transpose(0, 2, 3, 1)), 3, columns=1, scale=2))
    expected = np.concatenate(list(rgb.transpose(0, 2, 3, 1)))
    assert np.array_equal(sheet, expected.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("size", [20, 100])
def test_a_single_image_is_of_its_size(channels: int, mode: str, size: int) -> None:
    """Stored or compressed."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 28, size, channels), np.uint8)
    with Image.open(io.BytesIO(write_png(scanlines(pixels), channels))) as image:
        assert (image.mode, image.size, image.format) == (mode, (size, 28), "PNG")
        assert np.array_equal(np.asarray(image).reshape(pixels[0].shape), pixels[0])


def test_a_smooth_picture_is_small() -> None:
    """Its neighbours are alike, not its values."""
    slopes = np.add.outer(np.arange(100), np.arange(100))
    rgb = np.stack([slopes, slopes + 40, 2 * slopes], -1).astype(np.uint8)
    assert len(write_png(scanlines(rgb[np.newaxis]), 3)) < rgb.size / 30
