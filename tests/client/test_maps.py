"""Both clients where latents are maps: diffusers' AutoencoderKL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.client.callers import Caller, Connect
from tests.service.running import running
from tests.vae.autoencoder import write_folder
from vae_client import NotFound

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models") / "small"


@pytest.fixture(scope="module")
def network(folder: Path) -> Any:
    return write_folder(folder)


@pytest.fixture(scope="module")
def maps_url(network: Any, folder: Path) -> Iterator[str]:
    with running(checkpoint=folder) as service:
        yield f"http://127.0.0.1:{service.port}"


@pytest.fixture
def caller(connect: Connect, maps_url: str) -> Caller:
    return connect(maps_url)


@pytest.fixture(scope="module")
def x() -> FloatArray:
    return np.random.default_rng(0).random((3, 3, 32, 32), np.float32)


def posterior_of(network: Any, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    posterior = network.encode(2 * torch.from_numpy(x) - 1).latent_dist
    return posterior.mean.numpy(), posterior.logvar.numpy()


def images_of(network: Any, z: FloatArray) -> FloatArray:
    images: FloatArray = (network.decode(torch.from_numpy(z)).sample / 2 + 0.5).clamp(0, 1).numpy()
    return images


def near(came: FloatArray, wanted: FloatArray) -> None:
    assert came.dtype == np.float32
    assert came.shape == wanted.shape
    np.testing.assert_allclose(came, wanted, atol=1e-4, rtol=0)


def test_model(caller: Caller) -> None:
    model = caller.ask("model")
    assert (model.architecture, model.image_shape) == ("autoencoder_kl", (3, 32, 32))
    assert (model.latent_shape, model.latent_dim) == ((4, 16, 16), None)


def test_encode_and_decode(caller: Caller, network: Any, x: FloatArray) -> None:
    means, log_variances = posterior_of(network, x)
    one = slice(0, 1)
    for sent, rows in [(x, slice(None)), (torch.from_numpy(x), slice(None)), (list(x), slice(None)), ([x[0]], one)]:
        posterior = caller.ask("encode", sent, draw=True, seed=1)
        near(posterior.mean, means[rows])
        near(posterior.log_variance, log_variances[rows])
        assert posterior.z.shape == means[rows].shape
    near(caller.ask("encode", x[0]).mean, means[0])
    picture = Image.fromarray(np.rint(x[0] * 255).astype(np.uint8).transpose(1, 2, 0))
    assert caller.ask("encode", picture).mean.shape == (4, 16, 16)
    assert caller.ask("encode", [picture]).mean.shape == (1, 4, 16, 16)

    images = images_of(network, means)
    for z, wanted in [(means, images), (list(means), images), (means[0], images[0]), (means[0].tolist(), images[0])]:
        near(caller.ask("decode", z).pixels, wanted)
    assert caller.ask("decode", means[0]).to_pil()[0].size == (32, 32)


def test_reconstruct(caller: Caller, network: Any, x: FloatArray) -> None:
    means, _ = posterior_of(network, x)
    images = images_of(network, means)
    near(caller.ask("reconstruct", x).pixels, images)
    full = caller.ask("reconstruct", x, losses=True)
    near(full.pixels, images)
    near(full.mean, means)
    np.testing.assert_allclose(full.reconstruction_loss, ((images - x) ** 2).sum((1, 2, 3)) / 2, rtol=1e-4)
    alone = caller.ask("reconstruct", [x[0]], losses=True)
    assert (alone.pixels.shape, alone.mean.shape, alone.elbo.shape) == ((1, 3, 32, 32), (1, 4, 16, 16), (1,))


def test_sample_and_interpolate(caller: Caller, network: Any, x: FloatArray) -> None:
    assert caller.ask("sample", 2, seed=3).pixels.shape == (2, 3, 32, 32)
    means, _ = posterior_of(network, x)
    walk = caller.ask("interpolate", means[0], torch.from_numpy(means[1]), steps=3).pixels
    near(walk[[0, 2]], images_of(network, means[:2]))


def test_there_is_no_traverse(caller: Caller) -> None:
    with pytest.raises(NotFound, match="no single dimension"):
        caller.ask("traverse", [0, 0], [0])


def test_batches(caller: Caller, network: Any, x: FloatArray) -> None:
    means, _ = posterior_of(network, x)
    near(np.concatenate([answer.mean for answer in caller.map("encode", x, size=2)]), means)
    near(np.concatenate([answer.pixels for answer in caller.map("decode", means, size=2)]), images_of(network, means))
