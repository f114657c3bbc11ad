"""Every type of input reaches the model as the same numbers, and the result has its shape."""

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

from tests.client.clients import AnyClient
from tests.service.pictures import Bytes, npy, phone_photo, picture, png
from tests.service.running import Running
from vae_client import BadRequestError, RequestTooLargeError, UnprocessableEntityError, UnsupportedMediaTypeError

pytestmark = pytest.mark.slow

LOSSY = 0.05
"""Limit of the difference in the mean that JPEG or bfloat16 cause."""
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
    """The service's result for an array, requested without the client."""
    response = served.client.post("/encode", content=npy(digits), headers={"content-type": "application/x-npy"})
    return np.array(response.json()["mean"], np.float32)


@pytest.mark.parametrize("kind", ONE)
def test_one_image(client: AnyClient, served: Running, images: Bytes, tmp_path: Path, kind: str) -> None:
    posterior = client.call("encode", ONE[kind](images[0], tmp_path))
    assert posterior.mean.shape == posterior.log_variance.shape == (3,)
    assert posterior.mean.dtype == np.float32
    np.testing.assert_allclose(posterior.mean, means(served, images[0]), atol=1e-4)


def test_samples_of_mode_i_are_clipped_to_16_bits_and_those_of_mode_f_to_8(client: AnyClient, images: Bytes) -> None:
    deep, beyond = images[0].astype(np.int32) * 257, images[0].astype(np.int32) - 1
    beyond[beyond == 254] = 300
    for given, wanted in (
        (np.where(deep == 65535, 10**6, deep - 5 * (deep == 0)).astype(np.int32), images[0]),
        (beyond.astype(np.float32), np.where(images[0] == 255, 255, images[0] - (images[0] > 0))),
    ):
        expected = client.call("encode", wanted.astype(np.uint8)).mean
        np.testing.assert_array_equal(client.call("encode", Image.fromarray(given)).mean, expected)


def test_black_and_white(client: AnyClient, images: Bytes) -> None:
    ink = Image.fromarray(images[0]).convert("1")
    expected = client.call("encode", np.asarray(ink.convert("L"))).mean
    np.testing.assert_array_equal(client.call("encode", ink).mean, expected)


@pytest.mark.parametrize("kind", MANY)
@pytest.mark.parametrize("count", [1, 3])
def test_a_batch(client: AnyClient, served: Running, images: Bytes, tmp_path: Path, kind: str, count: int) -> None:
    batch = MANY[kind](images[:count], tmp_path)
    wanted = means(served, images[:count, np.newaxis])
    np.testing.assert_allclose(client.call("encode", batch).mean, wanted, atol=1e-4)
    assert client.call("reconstruct", batch).pixels.shape == (count, 1, 28, 28)
    with_losses = client.call("reconstruct", batch, losses=True)
    assert (with_losses.mean.shape, with_losses.elbo.shape) == ((count, 3), (count,))


def test_without_an_axis_for_the_channel(client: AnyClient, served: Running, images: Bytes) -> None:
    np.testing.assert_array_equal(client.call("encode", images[:3]).mean, means(served, images[:3]))


def test_a_jpeg_and_a_tensor_of_bfloat16(client: AnyClient, served: Running, images: Bytes) -> None:
    wanted = means(served, images[0])
    for lossy in (
        picture(Image.fromarray(images[0]), "JPEG", quality=98),
        torch.from_numpy(images[0] / 255.0).bfloat16(),
    ):
        difference = np.abs(client.call("encode", lossy).mean - wanted).max()
        assert 0 < difference < LOSSY


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_photo_opened_with_pillow_is_rotated(
    client: AnyClient, images: Bytes, tmp_path: Path, orientation: int
) -> None:
    photo = path_of(tmp_path, "photo.jpg", phone_photo(images[0], orientation, 400, 300))
    options = {"invert": True, "fit": "cover"}
    with Image.open(photo) as opened:
        np.testing.assert_allclose(
            client.call("encode", opened, **options).mean, client.call("encode", photo, **options).mean, atol=0.05
        )


@pytest.mark.parametrize("kind", LATENTS)
@pytest.mark.parametrize("z", [Z, Z[0]], ids=["batch", "one"])
def test_latents(client: AnyClient, served: Running, tmp_path: Path, kind: str, z: Any) -> None:
    wanted = served.client.post("/decode", json=z, headers={"accept": "application/json"}).json()["pixels"]
    decoded = client.call("decode", LATENTS[kind](z, tmp_path))
    assert decoded.pixels.dtype == np.float32
    np.testing.assert_allclose(decoded.pixels, np.array(wanted, np.float32), atol=1e-6)


def test_a_list_of_latents(client: AnyClient) -> None:
    wanted = client.call("decode", Z).pixels
    np.testing.assert_array_equal(client.call("decode", [np.array(z, np.float32) for z in Z]).pixels, wanted)
    np.testing.assert_array_equal(client.call("decode", [torch.tensor(z) for z in Z]).pixels, wanted)


def test_float64_is_sent_as_float32(client: AnyClient, served: Running) -> None:
    limit = served.context.limits.body
    count = limit // (28 * 28 * 8) + 100
    assert count < 10_000
    assert client.call("encode", np.zeros((count, 28, 28))).mean.shape == (count, 3)


@pytest.mark.parametrize(
    ("thing", "error", "words"),
    [
        ({"not": "an image"}, TypeError, "dict cannot be sent"),
        ([], ValueError, "list of images is empty"),
        (np.array([None]), TypeError, "array of object"),
        ([np.zeros((28, 28)), b"\x89PNG"], TypeError, "1 arrays and 1 pictures; send one of each kind"),
        ([np.zeros((28, 28)), np.zeros((27, 28))], ValueError, "same shape"),
        ("no such file.png", FileNotFoundError, "no such file"),
        (npy(np.zeros(3))[:20], ValueError, "EOF"),
    ],
)
def test_inputs_that_cannot_be_sent(client: AnyClient, thing: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        client.call("encode", thing)


def test_pickles_are_not_loaded(client: AnyClient) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        client.call("encode", stream.getvalue())


def test_a_picture_is_not_a_latent(client: AnyClient, images: Bytes) -> None:
    with pytest.raises(TypeError, match="A picture is not a latent"):
        client.call("decode", png(images[0]))


@pytest.mark.parametrize(
    ("thing", "error"),
    [
        (b"something", UnsupportedMediaTypeError),
        (b"\x89PNG\r\n\x1a\n", BadRequestError),
        ([b"something", b"else"], BadRequestError),
        (np.zeros((27, 28)), UnprocessableEntityError),
        (np.full((28, 28), 1.5), UnprocessableEntityError),
        (np.zeros((10_001, 28, 28), np.uint8), RequestTooLargeError),
    ],
)
def test_inputs_that_the_service_rejects(client: AnyClient, thing: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        client.call("encode", thing)


def test_numbers_beyond_float32_are_rejected_without_a_warning(client: AnyClient) -> None:
    with pytest.raises(UnprocessableEntityError):
        client.call("decode", [1e300, 0, 0])
    with pytest.raises(UnprocessableEntityError):
        client.call("decode", np.array([1e300, 0, 0]))
