"""Training and the service make the same pixels of a picture, by rules that are told."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pictures.pixels import to_pixels
from service.formats.images import open_image, to_array
from tests.pictures.kinds import HEIGHT, WIDTH, chunk, exif, kinds, sample_colours
from tests.service.pictures import Bytes, picture, png
from training.__main__ import main
from training.data import folder
from training.data.dataset import DataError
from training.data.load import load
from training.data.pictures import PIXEL_LIMIT, open_file, read_picture
from vae.metadata import Fit

ROOT = Path(__file__).parents[2]
KINDS = kinds()
SIDE = 24


@pytest.mark.parametrize("fit", ["contain", "cover", "stretch"])
@pytest.mark.parametrize("shape", [(1, 24, 24), (3, 20, 28)], ids=str)
def test_training_has_the_services_pixels(fit: Fit, shape: tuple[int, int, int]) -> None:
    for name, body in KINDS.items():
        served = to_array(open_image(body, 10**6), shape, fit=fit, invert=False)
        pixels = read_picture(body, shape, fit, name)
        assert np.array_equal(pixels.numpy().astype(np.float32) / np.float32(255), served), name


def write(root: Path, files: dict[str, bytes]) -> Path:
    """Each file in a class of its own."""
    for number, (name, body) in enumerate(files.items()):
        (root / f"{number:02}").mkdir(parents=True)
        (root / f"{number:02}" / name).write_bytes(body)
    return root


def images_of(root: Path, cache: Path, image_size: int | None = None) -> dict[int, Bytes]:
    """The images of a folder, by the number of the class."""
    return {
        int(label): image.numpy()
        for dataset in load(f"folder:{root}", cache, image_size)
        for image, label in zip(dataset.images, dataset.labels, strict=True)
    }


def test_a_folder_is_read_so(tmp_path: Path) -> None:
    images = images_of(write(tmp_path / "in", KINDS), tmp_path, SIDE)
    assert len(images) == len(KINDS)
    for label, (name, body) in enumerate(KINDS.items()):
        assert np.array_equal(images[label], read_picture(body, (3, SIDE, SIDE), "cover", name).numpy()), name


def test_grey_pictures_give_one_channel(tmp_path: Path) -> None:
    names = [name for name in KINDS if name.startswith(("grey", "1.png", "L.png", "LA.png", "L.jpg"))]
    names.remove("grey-alpha-16.png")  # Pillow opens it as RGBA
    grey = {name: KINDS[name] for name in names}
    assert len(grey) == 9
    assert {image.shape for image in images_of(write(tmp_path / "in", grey), tmp_path).values()} == {(1, HEIGHT, WIDTH)}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_sizes_are_compared_upright(tmp_path: Path, kind: str) -> None:
    upright = sample_colours()[:, :, :3]
    turned = Image.fromarray(np.rot90(upright))
    files = {"a.png": png(upright), f"b.{kind.lower()}": picture(turned, kind, exif=exif(6), lossless=True)}
    images = images_of(write(tmp_path / "in", files), tmp_path)
    assert {image.shape for image in images.values()} == {(3, HEIGHT, WIDTH)}
    if kind != "JPEG":
        assert np.array_equal(images[0], images[1])
    with pytest.raises(DataError, match=f"{WIDTH}×{HEIGHT} and .* is {HEIGHT}×{WIDTH}: give --image-size"):
        load(f"folder:{write(tmp_path / 'other', {'a.png': png(upright), 'b.png': picture(turned)})}", tmp_path)


def test_what_was_decoded_by_other_rules_is_decoded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "in", {name: KINDS[name] for name in ("L.png", "grey-16.png")})
    images_of(root, tmp_path)
    monkeypatch.setattr(folder, "DECODING_VERSION", folder.DECODING_VERSION + 1)
    images_of(root, tmp_path)
    assert len(list((tmp_path / "decoded").iterdir())) == 2


@pytest.mark.parametrize(
    ("image", "grey"),
    [
        (np.array([[0, 256, 257, 514, 65535]], np.uint16), [0, 0, 1, 2, 255]),
        (np.array([[-9, 0, 257, 65535, 2**20]], np.int32), [0, 0, 1, 255, 255]),
        (np.array([[-1, 0, 1, 254.9, 255, 1e9]], np.float32), [0, 0, 1, 254, 255, 255]),
    ],
    ids=["I;16", "I", "F"],
)
def test_more_than_8_bits(image: np.ndarray, grey: list[int]) -> None:
    opened = Image.fromarray(image)
    for channels in (1, 3):
        pixels = to_pixels(opened, (channels, 1, len(grey)), fit="stretch", invert=False, name="It")
        assert pixels.tolist() == [[grey]] * channels


def bmp_header(width: int, height: int) -> bytes:
    return struct.pack("<2sIHHI IiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def png_header(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"")


@pytest.mark.parametrize("suffix", ["bmp", "png"])
@pytest.mark.parametrize("pillows_limit", [PIXEL_LIMIT // 2, None])
def test_a_picture_that_is_too_large_is_told_with_its_path(
    suffix: str,
    pillows_limit: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
    header = {"bmp": bmp_header, "png": png_header}[suffix](20_000, 9000)
    root = write(tmp_path / "in", {"a.png": png(np.zeros((2, 2), np.uint8)), f"b.{suffix}": header})
    options = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "model.safetensors")]
    assert main(["fit", "--dataset", f"folder:{root}", *options]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{root}/01/b.{suffix} is an image of " in told
    assert f"{PIXEL_LIMIT}" in told


def test_a_large_picture_is_read_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXEL_LIMIT // 2)
    header = bmp_header(16_000, 9000)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(header))
    assert open_file(header, "It").size == (16_000, 9000)


OPEN_WEBP = """
import io, sys
from pictures.opening import open_picture
try:
    open_picture(io.BytesIO(bytes.fromhex(sys.argv[1])), b"", 100, "It")
finally:
    print("PIL.TiffImagePlugin" in sys.modules, "PIL.AvifImagePlugin" in sys.modules)
"""


def test_a_webp_makes_pillow_import_no_other_plugin() -> None:
    file = io.BytesIO()
    Image.new("L", (3, 3)).save(file, "WEBP")
    command = [sys.executable, "-c", OPEN_WEBP, file.getvalue().hex()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"
