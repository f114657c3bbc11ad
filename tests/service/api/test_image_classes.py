"""The contract for the classes of diffusers that make images, beside AutoencoderKL (`test_maps.py`)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pydantic_core import from_json

from tests.service.pictures import npy
from tests.service.problems import bad_fields
from tests.service.running import Running, running
from tests.vae.diffusion.networks import OPTIONS, write_network
from vae.diffusion.classes import CLASSES
from vae.diffusion.model import DiffusionModel

pytestmark = pytest.mark.slow

NPY, TENSOR = "application/x-npy", "tensor/binary"
Floats = np.ndarray[Any, Any]


class Served(NamedTuple):
    kind: str
    service: Running
    model: DiffusionModel

    def ask(self, path: str, array: Floats, **options: Any) -> Any:
        headers = {"content-type": TENSOR, "accept": TENSOR}
        parameters = {"shape": list(array.shape), "dtype": "float32"} | options
        return self.service.client.post(path, content=array.tobytes(), params=parameters, headers=headers)


def tensor(answer: Any) -> Floats:
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content, np.float32).reshape(from_json(answer.headers["shape"]))


def array(answer: Any) -> Floats:
    assert answer.status_code == 200, answer.text
    values: Floats = np.load(io.BytesIO(answer.content))
    return values


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a small network of the class that the test names, or of a class and options; its images are 64×64."""
    kind, options = request.param if isinstance(request.param, tuple) else (request.param, {})
    folder = tmp_path_factory.mktemp("models") / "small"
    network = write_network(folder, kind, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CLASSES, kind, replace(CLASSES[kind], size=lambda _: (64, 64)))
        with running(checkpoint=folder) as service:
            yield Served(kind, service, DiffusionModel(network))


IMAGES = ("AutoencoderTiny", "AutoencoderDC", "AsymmetricAutoencoderKL", "AutoencoderKLFlux2", "AutoencoderKLQwenImage")
GREY = ("AutoencoderTiny", {"in_channels": 1, "out_channels": 1})


def named(value: Any) -> str:
    return value if isinstance(value, str) else f"{value[0]}, grey"


@pytest.mark.parametrize("served", [*IMAGES, GREY], indirect=True, ids=named)
class TestImages:
    def test_model(self, served: Served) -> None:
        card, config = served.service.client.get("/model").json(), served.model.config
        assert card["architecture"] == served.kind
        assert (card["image_shape"], card["latent_shape"]) == (list(config.image_shape), list(config.latent_shape))
        assert (card["stride"], card["temporal_stride"], card["dtype"]) == (config.stride, 1, "float32")
        normalisation = config.normalisation
        channels = config.latent_shape[0] * normalisation.patch_size**2
        assert card["normalisation"]["patch_size"] == normalisation.patch_size
        for name in ("mean", "scale"):
            np.testing.assert_allclose(
                card["normalisation"][name], np.broadcast_to(getattr(normalisation, name), (channels,))
            )

    def test_decode_and_encode(self, served: Served) -> None:
        config = served.model.config
        z = np.random.default_rng(0).standard_normal(config.latent_shape).astype(np.float32)
        headers = {"content-type": NPY, "accept": NPY}
        client = served.service.client
        pixels = array(client.post("/decode", content=npy(z), headers=headers))
        expected = served.model.to_image_(served.model.decode(torch.from_numpy(z)[None]))[0].numpy()
        np.testing.assert_allclose(pixels, expected, atol=1e-4)
        posterior = array(client.post("/encode", content=npy(pixels), headers=headers))
        expected = torch.cat(served.model.encode(torch.from_numpy(pixels)[None])).numpy()
        np.testing.assert_allclose(posterior, expected, atol=1e-4)

    @pytest.mark.parametrize("do_scaling", [True, False])
    def test_remote_encode_and_decode(self, served: Served, do_scaling: bool) -> None:
        """Of 4×6 latents: with the scaling they are the diffusion model's."""
        config = served.model.config
        channels, stride = config.image_shape[0], config.stride
        x = np.random.default_rng(0).uniform(-1, 1, (1, channels, 4 * stride, 6 * stride)).astype(np.float32)
        mean = served.model.encode(torch.from_numpy(x) / 2 + 0.5)[0].numpy()
        latents = tensor(served.ask("/remote/encode", x, do_scaling=do_scaling))
        expected = config.normalisation.normalise(mean) if do_scaling else mean
        np.testing.assert_allclose(latents, expected, atol=1e-3)
        images = tensor(served.ask("/remote/decode", expected, do_scaling=do_scaling, output_type="pt"))
        np.testing.assert_allclose(images, served.model.decode_raw(torch.from_numpy(mean)).numpy(), atol=1e-3)


@pytest.mark.parametrize("served", ["AutoencoderKLQwenImage"], indirect=True)
def test_latents_with_an_axis_of_one_frame(served: Served) -> None:
    z = np.random.default_rng(0).standard_normal((1, 4, 1, 4, 6)).astype(np.float32)
    flat = tensor(served.ask("/remote/decode", z[:, :, 0], output_type="pt"))
    np.testing.assert_array_equal(tensor(served.ask("/remote/decode", z, output_type="pt")), flat)
    packed = z.reshape(1, 4, 2, 2, 3, 2).transpose(0, 2, 4, 1, 3, 5).reshape(1, 6, 16)
    answer = served.ask("/remote/decode", packed, output_type="pt", height=32, width=48)
    np.testing.assert_array_equal(tensor(answer), flat)
    assert bad_fields(served.ask("/remote/decode", z.repeat(2, 2), output_type="pt")) == [("query", "/shape")]


@pytest.mark.parametrize("served", ["AutoencoderKLFlux2"], indirect=True)
def test_patches_of_flux_2(served: Served) -> None:
    """Latents can be maps of patches, 4·C' at h/2×w/2, in both of the forms that pipelines have."""
    normalisation = served.model.config.normalisation
    z = np.random.default_rng(0).standard_normal((1, 4, 4, 6)).astype(np.float32)
    expected = tensor(served.ask("/remote/decode", z, output_type="pt"))
    patches = normalisation.patch(z)
    np.testing.assert_array_equal(tensor(served.ask("/remote/decode", patches, output_type="pt")), expected)
    packed = patches.reshape(1, 16, 6).transpose(0, 2, 1).copy()
    answer = served.ask("/remote/decode", packed, output_type="pt", height=8, width=12)
    np.testing.assert_array_equal(tensor(answer), expected)
    scaled = normalisation.normalise(z)
    answer = served.ask("/remote/decode", scaled, output_type="pt", do_scaling=True)
    np.testing.assert_allclose(tensor(answer), expected, atol=1e-4)

    odd = np.zeros((1, 4, 3, 2), np.float32)
    assert bad_fields(served.ask("/remote/decode", odd, do_scaling=True)) == [("query", "/do_scaling")]
    assert served.ask("/remote/decode", odd).status_code == 200
    image = np.zeros((1, 3, 6, 4), np.float32)
    assert bad_fields(served.ask("/remote/encode", image, do_scaling=True)) == [("query", "/do_scaling")]


@pytest.mark.parametrize("served", ["AutoencoderKLQwenImage"], indirect=True)
def test_factors_of_a_request_replace_the_normalisation_of_channels(served: Served) -> None:
    z = np.random.default_rng(0).standard_normal((1, 4, 2, 2)).astype(np.float32)
    expected = tensor(served.ask("/remote/decode", z / np.float32(0.5) + np.float32(0.25), output_type="pt"))
    answer = served.ask("/remote/decode", z, output_type="pt", do_scaling=True, scaling_factor=0.5, shift_factor=0.25)
    np.testing.assert_allclose(tensor(answer), expected, atol=1e-5)


def test_each_class_of_images_is_served() -> None:
    videos = {"AutoencoderKLWan", "AutoencoderKLHunyuanVideo", "AutoencoderKLLTXVideo", "AutoencoderKLCogVideoX"}
    assert {"AutoencoderKL", *IMAGES} | videos == set(OPTIONS)
