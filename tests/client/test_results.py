"""Each method returns what the service's JSON has; results can be converted and saved."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from tests.client.clients import AnyClient, Connect
from tests.client.fake_server import MODEL, fake_server, response
from tests.service.pictures import Bytes, npy, png, read_png
from tests.service.running import Running
from vae_client import (
    Images,
    Posterior,
    Reconstruction,
    Scores,
    ServiceUnavailableError,
    UnprocessableEntityError,
)

JSON = {"accept": "application/json"}
Z = [-2.65, -0.36, 0.13]


def test_encode(client: AnyClient, served: Running, images: Bytes) -> None:
    expected = served.client.post(
        "/encode?draw=true&seed=5&fit=stretch&invert=true",
        content=png(images[0]),
        headers={"content-type": "image/png"},
    ).json()
    posterior = client.call("encode", png(images[0]), draw=True, seed=5, fit="stretch", invert=True)
    assert isinstance(posterior, Posterior)
    assert posterior.seed == 5
    for name in ("mean", "log_variance", "z"):
        np.testing.assert_array_equal(getattr(posterior, name), np.array(expected[name], np.float32))
    assert client.call("encode", images[0]).z is None
    assert client.call("encode", images[0]).seed is None
    assert client.call("encode", images[:2], draw=True).z.shape == (2, 3)


def test_reconstruct(client: AnyClient, served: Running, images: Bytes) -> None:
    expected = served.client.post(
        "/reconstruct?draw=true&seed=5", content=npy(images[:2]), headers={**JSON, "content-type": "application/x-npy"}
    ).json()
    plain = client.call("reconstruct", images[:2], draw=True, seed=5)
    full = client.call("reconstruct", images[:2], draw=True, seed=5, losses=True)
    assert type(plain) is Images
    assert isinstance(full, Reconstruction)
    assert plain.seed == full.seed == 5
    np.testing.assert_array_equal(plain.pixels, full.pixels)
    assert expected.keys() == {"mean", "log_variance", "reconstruction_loss", "kl_divergence", "elbo", "pixels", "z"}
    for name, value in expected.items():
        np.testing.assert_array_equal(getattr(full, name), np.array(value, np.float32))
    assert full.plug_in_elbo is full.elbo_standard_error is None
    one = client.call("reconstruct", images[0], losses=True)
    assert one.plug_in_elbo == one.elbo
    assert (one.elbo.shape, one.pixels.shape, one.z) == ((), (1, 28, 28), None)


def test_the_elbo_of_draws(client: AnyClient, served: Running, images: Bytes) -> None:
    expected = served.client.post(
        "/reconstruct?draws=5&seed=5", content=npy(images[:2]), headers={**JSON, "content-type": "application/x-npy"}
    ).json()
    full = client.call("reconstruct", images[:2], losses=True, draws=5, seed=5)
    assert full.seed == 5
    for name in ("elbo", "elbo_standard_error", "plug_in_elbo"):
        np.testing.assert_array_equal(getattr(full, name), np.array(expected[name], np.float32))
    with pytest.raises(UnprocessableEntityError, match="draws: application/x-npy has no losses"):
        client.call("reconstruct", images[:2], draws=5)


def test_score(client: AnyClient, served: Running, images: Bytes) -> None:
    query = "draws=5&samples=7&seed=5&fit=stretch&invert=true&map=true"
    headers = {**JSON, "content-type": "image/png"}
    expected = served.client.post(f"/score?{query}", content=png(images[0]), headers=headers).json()
    options = {"draws": 5, "samples": 7, "seed": 5, "fit": "stretch", "invert": True, "pixel_losses": True}
    scores = client.call("score", png(images[0]), **options)
    assert isinstance(scores, Scores)
    assert scores.seed == 5
    for name, value in expected.items():
        np.testing.assert_array_equal(getattr(scores, name), np.array(value, np.float32))
    assert scores.outlier_factor is scores.percentile is None
    assert scores.anomalous is None
    plain = client.call("score", images[:3])
    assert (plain.elbo.shape, plain.seed) == ((3,), 0)
    assert plain.importance_weighted_bound is plain.pixel_losses is None
    assert client.call("score", [images[0]], pixel_losses=True).pixel_losses.shape == (1, 1, 28, 28)
    assert client.call("score", [images[0]]).elbo.shape == (1,)


def test_a_calibrated_score(connect: Connect) -> None:
    names = ("elbo", "elbo_standard_error", "reconstruction_loss", "kl_divergence", "outlier_factor", "percentile")
    scores = {**{name: [0.5, 1] for name in names}, "anomalous": [False, True]}
    with fake_server((response(json.dumps(scores).encode()),)) as server:
        found = connect(server.url).call("score", np.zeros((2, 28, 28), np.uint8), level=0.75)
    assert server.requests[0].head.startswith("POST /score?invert=false&level=0.75&map=false HTTP")
    assert found.outlier_factor.tolist() == found.percentile.tolist() == [0.5, 1]
    assert found.anomalous.tolist() == [False, True]
    assert found.anomalous.dtype == bool


def test_sample(client: AnyClient, served: Running) -> None:
    expected = served.client.get("/sample?n=3&seed=7&temperature=0.5", headers=JSON).json()
    samples = client.call("sample", 3, seed=7, temperature=0.5)
    np.testing.assert_array_equal(samples.pixels, np.array(expected["pixels"], np.float32))
    assert samples.seed == 7
    chosen = client.call("sample")
    assert chosen.pixels.shape == (1, 1, 28, 28)
    np.testing.assert_array_equal(client.call("sample", seed=chosen.seed).pixels, chosen.pixels)


def test_interpolate(client: AnyClient, served: Running) -> None:
    stop = [1.0, 1.0, 0.0]
    document = {"from": Z, "to": stop, "steps": 5, "method": "spherical"}
    expected = served.client.post("/interpolate", json=document, headers=JSON).json()["pixels"]
    result = client.call("interpolate", torch.tensor(Z), np.array(stop), steps=5, method="spherical")
    np.testing.assert_allclose(result.pixels, np.array(expected, np.float32), atol=1e-5)  # the client sends float32
    assert len(client.call("interpolate", Z, stop).pixels) == 8


def test_traverse(client: AnyClient, served: Running) -> None:
    document = {"at": Z, "dimensions": [2, 0], "low": -1, "high": 2, "steps": 3}
    expected = served.client.post("/traverse", json=document, headers=JSON).json()["pixels"]
    result = client.call("traverse", np.array(Z), np.array([2, 0]), low=-1, high=2, steps=3)
    np.testing.assert_allclose(result.pixels, np.array(expected, np.float32), atol=1e-6)
    assert len(client.call("traverse", Z, [1]).pixels) == 15


def test_model(client: AnyClient, served: Running) -> None:
    expected = served.client.get("/model").json()
    model = client.call("model")
    assert model.image_shape == tuple(expected["image_shape"])
    assert model.latent_shape == tuple(expected["latent_shape"])
    for name in expected.keys() - {"image_shape", "latent_shape"}:
        assert getattr(model, name) == expected[name]


def test_arrays_are_writable(client: AnyClient, images: Bytes) -> None:
    for pixels in (client.call("decode", Z).pixels, client.call("reconstruct", images[0]).pixels):
        pixels[:] = 0
    client.call("encode", images[:2]).mean[:] = 0


def test_tensors(client: AnyClient, images: Bytes) -> None:
    full = client.call("reconstruct", images[:2], losses=True)
    tensors = full.to_torch()
    losses = {"reconstruction_loss", "kl_divergence", "elbo", "plug_in_elbo"}
    assert tensors.keys() == {"pixels", "mean", "log_variance", *losses}
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        np.testing.assert_array_equal(tensor.numpy(), getattr(full, name))


@pytest.mark.parametrize("count", [1, 5])
def test_pictures_match_those_of_the_service(client: AnyClient, served: Running, tmp_path: Path, count: int) -> None:
    z = np.random.default_rng(0).standard_normal((count, 3)).tolist()
    wanted = read_png(served.client.post("/decode", json=z).content)
    decoded = client.call("decode", z)
    decoded.save(tmp_path / "grid.png")
    for picture in (decoded.to_png(), (tmp_path / "grid.png").read_bytes()):
        assert np.abs(read_png(picture).astype(int) - wanted).max() <= 1  # the service decodes directly to bytes
    pictures = decoded.to_pil()
    assert len(pictures) == count
    assert all((picture.mode, picture.size) == ("L", (28, 28)) for picture in pictures)
    np.testing.assert_array_equal(np.asarray(pictures[0]), read_png(decoded.to_png())[:28, :28])


def test_colour_channels() -> None:
    pixels = np.zeros((2, 3, 4, 6), np.float32)
    pixels[0, 0], pixels[1, 2] = 1, 1
    colour = Images(pixels=pixels)
    assert [picture.getpixel((5, 3)) for picture in colour.to_pil()] == [(255, 0, 0), (0, 0, 255)]
    with Image.open(io.BytesIO(colour.to_png())) as grid:
        assert grid.size == (12, 4)
        assert (grid.getpixel((5, 3)), grid.getpixel((6, 0))) == ((255, 0, 0), (0, 0, 255))


def test_files_of_arrays(client: AnyClient, images: Bytes, tmp_path: Path) -> None:
    posterior = client.call("encode", images[:2])
    full = client.call("reconstruct", images[:2], losses=True)
    for result, names in ((posterior, ("mean", "log_variance")), (full, ("pixels", "mean", "elbo"))):
        result.save(tmp_path / "arrays.npz")
        with np.load(tmp_path / "arrays.npz") as saved, np.load(io.BytesIO(result.to_npz())) as loaded:
            for name in names:
                np.testing.assert_array_equal(saved[name], getattr(result, name))
                np.testing.assert_array_equal(loaded[name], getattr(result, name))
    with pytest.raises(ValueError, match=r"does not end in \.npz"):
        posterior.save(tmp_path / "arrays.png")


def test_latents(client: AnyClient, served: Running, tmp_path: Path) -> None:
    expected = served.client.get("/latents", headers=JSON).json()
    latents = client.call("latents")
    np.testing.assert_array_equal(latents.mean, np.array(expected["mean"], np.float32))
    np.testing.assert_array_equal(latents.label, expected["label"])
    assert (latents.mean.shape, latents.label.dtype, latents.seed) == ((10000, 3), np.int64, None)
    latents.save(tmp_path / "latents.npz")
    assert np.load(tmp_path / "latents.npz")["label"].shape == (10000,)


@pytest.mark.parametrize("status", ["ok", "starting", "draining"])
def test_health(client: AnyClient, served: Running, status: Literal["ok", "starting", "draining"]) -> None:
    """A service that is not ready responds with 503, which is a result here."""
    served.admission.status = status
    try:
        assert client.call("health").status == status
    finally:
        served.admission.status = "ok"


@pytest.mark.parametrize("body", [b"<h1>Down</h1>", json.dumps({"detail": "no healthy upstream"}).encode()])
def test_health_behind_a_gateway_that_responds_itself(connect: Connect, body: bytes) -> None:
    page = response(body, 503, "text/html")
    with fake_server((page,)) as server, pytest.raises(ServiceUnavailableError):
        connect(server.url, max_retries=0).call("health")


@pytest.mark.parametrize(
    ("module", "method", "sentence"),
    [
        ("torch", "to_torch", r"to_torch\(\) needs torch; install it with: pip install torch"),
        ("PIL", "to_pil", "A picture needs Pillow; install it with: pip install pillow"),
        ("PIL", "to_png", "needs Pillow"),
    ],
)
def test_a_package_is_missing(monkeypatch: pytest.MonkeyPatch, module: str, method: str, sentence: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    images = Images(pixels=np.zeros((1, 28, 28), np.float32))
    with pytest.raises(ImportError, match=sentence):
        getattr(images, method)()


def test_tqdm_is_missing(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.delitem(sys.modules, "tqdm.auto", raising=False)
    with fake_server((MODEL,)) as server, pytest.raises(ImportError, match=r"pip install 'vae-client\[progress\]'"):
        next(connect(server.url).map("decode", [[0.0, 0.0, 0.0]], progress=True))
