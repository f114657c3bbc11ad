"""Both clients with a model whose latents are maps, diffusers' AutoencoderKL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.client.clients import AnyClient, Async, Sync
from tests.service.running import running
from vae_client import NotFoundError

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def maps_url(kl_folder: Path) -> Iterator[str]:
    with running(checkpoint=kl_folder) as service:
        yield f"http://127.0.0.1:{service.port}"


@pytest.fixture(scope="module", params=[Sync, Async])
def client(request: pytest.FixtureRequest, maps_url: str) -> Iterator[AnyClient]:
    with closing(request.param(maps_url)) as client:
        yield client


@pytest.fixture(scope="module")
def x() -> FloatArray:
    return np.random.default_rng(0).random((3, 3, 32, 32), np.float32)


def posterior_of(network: Any, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    posterior = network.encode(2 * torch.from_numpy(x) - 1).latent_dist
    return posterior.mean.numpy(), posterior.logvar.numpy()


def images_of(network: Any, z: FloatArray) -> FloatArray:
    images: FloatArray = (network.decode(torch.from_numpy(z)).sample / 2 + 0.5).clamp(0, 1).numpy()
    return images


def near(actual: FloatArray, expected: FloatArray) -> None:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


def test_model(client: AnyClient) -> None:
    model = client.call("model")
    assert (model.architecture, model.image_shape) == ("AutoencoderKL", (3, 32, 32))
    assert (model.latent_shape, model.latent_dim) == ((4, 16, 16), None)


def test_encode_and_decode(client: AnyClient, kl_network: Any, x: FloatArray) -> None:
    means, log_variances = posterior_of(kl_network, x)
    one = slice(0, 1)
    for sent, rows in [(x, slice(None)), (torch.from_numpy(x), slice(None)), (list(x), slice(None)), ([x[0]], one)]:
        posterior = client.call("encode", sent, draw=True, seed=1)
        near(posterior.mean, means[rows])
        near(posterior.log_variance, log_variances[rows])
        assert posterior.z.shape == means[rows].shape
    near(client.call("encode", x[0]).mean, means[0])
    picture = Image.fromarray(np.rint(x[0] * 255).astype(np.uint8).transpose(1, 2, 0))
    assert client.call("encode", picture).mean.shape == (4, 16, 16)
    assert client.call("encode", [picture]).mean.shape == (1, 4, 16, 16)

    images = images_of(kl_network, means)
    for z, expected in [(means, images), (list(means), images), (means[0], images[0]), (means[0].tolist(), images[0])]:
        near(client.call("decode", z).pixels, expected)
    assert client.call("decode", means[0]).to_pil()[0].size == (32, 32)


def test_reconstruct(client: AnyClient, kl_network: Any, x: FloatArray) -> None:
    means, _ = posterior_of(kl_network, x)
    images = images_of(kl_network, means)
    near(client.call("reconstruct", x).pixels, images)
    full = client.call("reconstruct", x, losses=True)
    near(full.pixels, images)
    near(full.mean, means)
    np.testing.assert_allclose(full.reconstruction_loss, ((images - x) ** 2).sum((1, 2, 3)) / 2, rtol=1e-4)
    single = client.call("reconstruct", [x[0]], losses=True)
    assert (single.pixels.shape, single.mean.shape, single.elbo.shape) == ((1, 3, 32, 32), (1, 4, 16, 16), (1,))


def test_sample_and_interpolate(client: AnyClient, kl_network: Any, x: FloatArray) -> None:
    assert client.call("sample", 2, seed=3).pixels.shape == (2, 3, 32, 32)
    means, _ = posterior_of(kl_network, x)
    between = client.call("interpolate", means[0], torch.from_numpy(means[1]), steps=3).pixels
    near(between[[0, 2]], images_of(kl_network, means[:2]))


def test_traverse_is_not_found(client: AnyClient) -> None:
    with pytest.raises(NotFoundError, match="no single dimension"):
        client.call("traverse", [0, 0], [0])


def test_batches(client: AnyClient, kl_network: Any, x: FloatArray) -> None:
    means, _ = posterior_of(kl_network, x)
    near(np.concatenate([result.mean for result in client.map("encode", x, size=2)]), means)
    near(
        np.concatenate([result.pixels for result in client.map("decode", means, size=2)]), images_of(kl_network, means)
    )
