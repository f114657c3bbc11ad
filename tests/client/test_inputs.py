"""Whatever is handed over reaches the model as the same numbers, and has an answer of its shape."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.client.callers import Caller
from tests.service.pictures import Bytes, npy, phone_photo, picture, png
from tests.service.running import Running
from vae_client import InvalidInput, TooLarge, UnreadableBody, UnsupportedMediaType

LOSSY = 0.05
"""What a JPEG of a digit may move its mean by."""
Make = Callable[[Bytes, Path], Any]


def path_of(folder: Path, name: str, body: bytes) -> Path:
    (folder / name).write_bytes(body)
    return folder / name


ONE: dict[str, Make] = {
    "uint8 (H, W)": lambda d, _: d,
    "uint8 (C, H, W)": lambda d, _: d[np.newaxis],
    "float32": lambda d, _: d.astype(np.float32) / 255,
    "float64": lambda d, _: d / 255.0,
    "not contiguous": lambda d, _: np.asfortranarray(d),
    "uint8 tensor": lambda d, _: torch.from_numpy(d.copy()),
    "tensor with a gradient": lambda d, _: (torch.from_numpy(d.copy()) / 255).requires_grad_(),
    "float64 tensor": lambda d, _: torch.from_numpy(d / 255.0),
    "PIL, grey": lambda d, _: Image.fromarray(d),
    "PIL, RGB": lambda d, _: Image.fromarray(d).convert("RGB"),
    "PIL, RGBA": lambda d, _: Image.fromarray(d).convert("RGBA"),
    "PIL, premultiplied alpha": lambda d, _: Image.fromarray(d).convert("RGBA").convert("RGBa"),
    "PIL, palette": lambda d, _: Image.fromarray(d).convert("P"),
    "PIL, premultiplied grey": lambda d, _: Image.fromarray(d).convert("LA").convert("La"),
    "PIL, palette with alpha": lambda d, _: Image.fromarray(d).convert("PA"),
    "PIL, 16 bits": lambda d, _: Image.fromarray(d.astype(np.uint16) * 257),
    "PIL, 16 bits, big-endian": lambda d, _: Image.frombytes("I;16B", (28, 28), (d.astype(">u2") * 257).tobytes()),
    "PIL, 32 bits": lambda d, _: Image.fromarray(d.astype(np.int32) * 257),
    "PIL, floating": lambda d, _: Image.fromarray(d.astype(np.float32)),
    "PIL, YCbCr": lambda d, _: Image.fromarray(d).convert("YCbCr"),
    "PIL, CMYK": lambda d, _: Image.fromarray(d).convert("RGB").convert("CMYK"),
    "path": lambda d, folder: path_of(folder, "digit.png", png(d)),
    "path as a string": lambda d, folder: str(path_of(folder, "digit.png", png(d))),
    "path of an array": lambda d, folder: path_of(folder, "digit.npy", npy(d)),
    "PNG": lambda d, _: png(d),
    "PNG in a bytearray": lambda d, _: bytearray(png(d)),
    "PNG in a memoryview": lambda d, _: memoryview(png(d)),
    "WebP": lambda d, _: picture(Image.fromarray(d).convert("RGB"), "WEBP", lossless=True),
    "GIF": lambda d, _: picture(Image.fromarray(d), "GIF"),
    "BMP": lambda d, _: picture(Image.fromarray(d), "BMP"),
    "npy": lambda d, _: npy(d),
}
MANY: dict[str, Callable[[Bytes, Path], Any]] = {
    "uint8": lambda d, _: d[:, np.newaxis],
    "float32": lambda d, _: d[:, np.newaxis].astype(np.float32) / 255,
    "tensor": lambda d, _: torch.from_numpy(d[:, np.newaxis].copy()),
    "arrays": lambda d, _: list(d),
    "tensors": lambda d, _: [torch.from_numpy(digit.copy()) for digit in d],
    "arrays and tensors": lambda d, _: [d[0], *(torch.from_numpy(digit.copy()) for digit in d[1:])],
    "arrays (C, H, W)": lambda d, _: list(d[:, np.newaxis]),
    "npy": lambda d, _: npy(d[:, np.newaxis]),
    "npy each": lambda d, _: [npy(digit) for digit in d],
    "pictures": lambda d, _: tuple(Image.fromarray(digit) for digit in d),
    "files": lambda d, folder: [path_of(folder, f"{i}.png", png(digit)) for i, digit in enumerate(d)],
    "PNGs": lambda d, _: [png(digit) for digit in d],
}
Z = [[-2.65, -0.36, 0.13], [1.0, 0.5, -0.25], [0.0, 0.0, 3.0]]
LATENTS: dict[str, Callable[[Any, Path], Any]] = {
    "numbers": lambda z, _: z,
    "float32": lambda z, _: np.array(z, np.float32),
    "float64": lambda z, _: np.array(z),
    "tensor": lambda z, _: torch.tensor(z, requires_grad=True),
    "npy": lambda z, _: npy(np.array(z)),
    "path": lambda z, folder: path_of(folder, "z.npy", npy(np.array(z))),
}


def means(served: Running, digits: Bytes) -> NDArray[np.float32]:
    """What the service itself says of an array, asked without the client."""
    answer = served.client.post("/encode", content=npy(digits), headers={"content-type": "application/x-npy"})
    return np.array(answer.json()["mean"], np.float32)


@pytest.mark.parametrize("kind", ONE)
def test_one_image(caller: Caller, served: Running, images: Bytes, tmp_path: Path, kind: str) -> None:
    posterior = caller.ask("encode", ONE[kind](images[0], tmp_path))
    assert posterior.mean.shape == posterior.log_variance.shape == (3,)
    assert posterior.mean.dtype == np.float32
    np.testing.assert_allclose(posterior.mean, means(served, images[0]), atol=1e-4)


def test_samples_of_mode_i_are_clipped_to_16_bits_and_those_of_mode_f_to_8(caller: Caller, images: Bytes) -> None:
    deep, beyond = images[0].astype(np.int32) * 257, images[0].astype(np.int32) - 1
    beyond[beyond == 254] = 300
    for given, wanted in (
        (np.where(deep == 65535, 10**6, deep - 5 * (deep == 0)).astype(np.int32), images[0]),
        (beyond.astype(np.float32), np.where(images[0] == 255, 255, images[0] - (images[0] > 0))),
    ):
        expected = caller.ask("encode", wanted.astype(np.uint8)).mean
        np.testing.assert_array_equal(caller.ask("encode", Image.fromarray(given)).mean, expected)


def test_black_and_white(caller: Caller, images: Bytes) -> None:
    ink = Image.fromarray(images[0]).convert("1")
    expected = caller.ask("encode", np.asarray(ink.convert("L"))).mean
    np.testing.assert_array_equal(caller.ask("encode", ink).mean, expected)


@pytest.mark.parametrize("kind", MANY)
@pytest.mark.parametrize("count", [1, 3])
def test_a_batch(caller: Caller, served: Running, images: Bytes, tmp_path: Path, kind: str, count: int) -> None:
    batch = MANY[kind](images[:count], tmp_path)
    wanted = means(served, images[:count, np.newaxis])
    np.testing.assert_allclose(caller.ask("encode", batch).mean, wanted, atol=1e-4)
    assert caller.ask("reconstruct", batch).pixels.shape == (count, 1, 28, 28)
    with_losses = caller.ask("reconstruct", batch, losses=True)
    assert (with_losses.mean.shape, with_losses.elbo.shape) == ((count, 3), (count,))


def test_without_an_axis_for_the_channel(caller: Caller, served: Running, images: Bytes) -> None:
    np.testing.assert_array_equal(caller.ask("encode", images[:3]).mean, means(served, images[:3]))


def test_a_jpeg_and_a_tensor_of_bfloat16(caller: Caller, served: Running, images: Bytes) -> None:
    wanted = means(served, images[0])
    for lossy in (
        picture(Image.fromarray(images[0]), "JPEG", quality=98),
        torch.from_numpy(images[0] / 255.0).bfloat16(),
    ):
        difference = np.abs(caller.ask("encode", lossy).mean - wanted).max()
        assert 0 < difference < LOSSY


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_photo_opened_with_pillow_is_upright(caller: Caller, images: Bytes, tmp_path: Path, orientation: int) -> None:
    photo = path_of(tmp_path, "photo.jpg", phone_photo(images[0], orientation, 400, 300))
    options = {"invert": True, "fit": "cover"}
    with Image.open(photo) as opened:
        np.testing.assert_allclose(
            caller.ask("encode", opened, **options).mean, caller.ask("encode", photo, **options).mean, atol=0.05
        )


@pytest.mark.parametrize("kind", LATENTS)
@pytest.mark.parametrize("z", [Z, Z[0]], ids=["batch", "one"])
def test_latents(caller: Caller, served: Running, tmp_path: Path, kind: str, z: Any) -> None:
    wanted = served.client.post("/decode", json=z, headers={"accept": "application/json"}).json()["pixels"]
    decoded = caller.ask("decode", LATENTS[kind](z, tmp_path))
    assert decoded.pixels.dtype == np.float32
    np.testing.assert_allclose(decoded.pixels, np.array(wanted, np.float32), atol=1e-6)


def test_a_list_of_latents(caller: Caller) -> None:
    wanted = caller.ask("decode", Z).pixels
    np.testing.assert_array_equal(caller.ask("decode", [np.array(z, np.float32) for z in Z]).pixels, wanted)
    np.testing.assert_array_equal(caller.ask("decode", [torch.tensor(z) for z in Z]).pixels, wanted)


def test_half_the_bytes_of_float64_go_over_the_wire(caller: Caller, served: Running) -> None:
    limit = served.app.state.model_context.limits.body
    count = limit // (28 * 28 * 8) + 100
    assert count < 10_000
    assert caller.ask("encode", np.zeros((count, 28, 28))).mean.shape == (count, 3)


@pytest.mark.parametrize(
    ("thing", "error", "words"),
    [
        ({"not": "an image"}, TypeError, "dict cannot be sent"),
        ([], ValueError, "list of images is empty"),
        (np.array([None]), TypeError, "array of object"),
        ([np.zeros((28, 28)), b"\x89PNG"], TypeError, "1 arrays and 1 pictures are mixed"),
        ([np.zeros((28, 28)), np.zeros((27, 28))], ValueError, "same shape"),
        ("no such file.png", FileNotFoundError, "no such file"),
        (npy(np.zeros(3))[:20], ValueError, "EOF"),
    ],
)
def test_what_cannot_be_sent(caller: Caller, thing: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        caller.ask("encode", thing)


def test_a_pickle_is_not_opened(caller: Caller) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        caller.ask("encode", stream.getvalue())


def test_a_picture_is_no_latent(caller: Caller, images: Bytes) -> None:
    with pytest.raises(TypeError, match="A picture is no latent"):
        caller.ask("decode", png(images[0]))


@pytest.mark.parametrize(
    ("thing", "error"),
    [
        (b"something", UnsupportedMediaType),
        (b"\x89PNG\r\n\x1a\n", UnreadableBody),
        ([b"something", b"else"], UnreadableBody),
        (np.zeros((27, 28)), InvalidInput),
        (np.full((28, 28), 1.5), InvalidInput),
        (np.zeros((10_001, 28, 28), np.uint8), TooLarge),
    ],
)
def test_what_the_service_does_not_take(caller: Caller, thing: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        caller.ask("encode", thing)


def test_numbers_beyond_float32_are_refused_not_warned_of(caller: Caller) -> None:
    with pytest.raises(InvalidInput):
        caller.ask("decode", [1e300, 0, 0])
    with pytest.raises(InvalidInput):
        caller.ask("decode", np.array([1e300, 0, 0]))
