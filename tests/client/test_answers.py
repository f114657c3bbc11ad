"""Every method against the service's own answer, and what an answer can be turned into."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.client.callers import Caller
from tests.service.pictures import Bytes, npy, png, read_png
from tests.service.running import Running
from vae_client import Images, InvalidInput, Posterior, Reconstruction

JSON = {"accept": "application/json"}
Z = [-2.65, -0.36, 0.13]


def test_encode(caller: Caller, served: Running, images: Bytes) -> None:
    said = served.client.post(
        "/encode?draw=true&seed=5&fit=stretch&invert=true",
        content=png(images[0]),
        headers={"content-type": "image/png"},
    ).json()
    posterior = caller.ask("encode", png(images[0]), draw=True, seed=5, fit="stretch", invert=True)
    assert isinstance(posterior, Posterior)
    assert posterior.seed == 5
    for name in ("mean", "log_variance", "z"):
        np.testing.assert_array_equal(getattr(posterior, name), np.array(said[name], np.float32))
    assert caller.ask("encode", images[0]).z is None
    assert caller.ask("encode", images[0]).seed is None
    assert caller.ask("encode", images[:2], draw=True).z.shape == (2, 3)


def test_reconstruct(caller: Caller, served: Running, images: Bytes) -> None:
    said = served.client.post(
        "/reconstruct?draw=true&seed=5", content=npy(images[:2]), headers={**JSON, "content-type": "application/x-npy"}
    ).json()
    plain = caller.ask("reconstruct", images[:2], draw=True, seed=5)
    full = caller.ask("reconstruct", images[:2], draw=True, seed=5, losses=True)
    assert type(plain) is Images
    assert isinstance(full, Reconstruction)
    assert plain.seed == full.seed == 5
    np.testing.assert_array_equal(plain.pixels, full.pixels)
    assert said.keys() == {"mean", "log_variance", "reconstruction_loss", "kl_divergence", "elbo", "pixels", "z"}
    for name, value in said.items():
        np.testing.assert_array_equal(getattr(full, name), np.array(value, np.float32))
    assert full.plug_in_elbo is full.elbo_standard_error is None
    one = caller.ask("reconstruct", images[0], losses=True)
    assert one.plug_in_elbo == one.elbo
    assert (one.elbo.shape, one.pixels.shape, one.z) == ((), (1, 28, 28), None)


def test_the_elbo_of_draws(caller: Caller, served: Running, images: Bytes) -> None:
    said = served.client.post(
        "/reconstruct?draws=5&seed=5", content=npy(images[:2]), headers={**JSON, "content-type": "application/x-npy"}
    ).json()
    full = caller.ask("reconstruct", images[:2], losses=True, draws=5, seed=5)
    assert full.seed == 5
    for name in ("elbo", "elbo_standard_error", "plug_in_elbo"):
        np.testing.assert_array_equal(getattr(full, name), np.array(said[name], np.float32))
    with pytest.raises(InvalidInput, match="draws: application/x-npy has no losses"):
        caller.ask("reconstruct", images[:2], draws=5)


def test_sample(caller: Caller, served: Running) -> None:
    said = served.client.get("/sample?n=3&seed=7&temperature=0.5", headers=JSON).json()
    samples = caller.ask("sample", 3, seed=7, temperature=0.5)
    np.testing.assert_array_equal(samples.pixels, np.array(said["pixels"], np.float32))
    assert samples.seed == 7
    chosen = caller.ask("sample")
    assert chosen.pixels.shape == (1, 1, 28, 28)
    np.testing.assert_array_equal(caller.ask("sample", seed=chosen.seed).pixels, chosen.pixels)


def test_interpolate(caller: Caller, served: Running) -> None:
    stop = [1.0, 1.0, 0.0]
    document = {"from": Z, "to": stop, "steps": 5, "method": "spherical"}
    said = served.client.post("/interpolate", json=document, headers=JSON).json()["pixels"]
    walked = caller.ask("interpolate", torch.tensor(Z), np.array(stop), steps=5, method="spherical")
    np.testing.assert_allclose(walked.pixels, np.array(said, np.float32), atol=1e-5)  # ends as float32, as JSON's
    assert len(caller.ask("interpolate", Z, stop).pixels) == 8


def test_traverse(caller: Caller, served: Running) -> None:
    document = {"at": Z, "dimensions": [2, 0], "low": -1, "high": 2, "steps": 3}
    said = served.client.post("/traverse", json=document, headers=JSON).json()["pixels"]
    walked = caller.ask("traverse", np.array(Z), np.array([2, 0]), low=-1, high=2, steps=3)
    np.testing.assert_allclose(walked.pixels, np.array(said, np.float32), atol=1e-6)
    assert len(caller.ask("traverse", Z, [1]).pixels) == 15


def test_model(caller: Caller, served: Running) -> None:
    said = served.client.get("/model").json()
    model = caller.ask("model")
    assert model.image_shape == tuple(said["image_shape"])
    assert model.latent_shape == tuple(said["latent_shape"])
    for name in ("name", "architecture", "latent_dim", "parameters", "sha256", "format_version", "training", "figures"):
        assert getattr(model, name) == said[name]


def test_arrays_come_as_npy_and_may_be_written_to(caller: Caller, images: Bytes) -> None:
    for pixels in (caller.ask("decode", Z).pixels, caller.ask("reconstruct", images[0]).pixels):
        pixels[:] = 0
    caller.ask("encode", images[:2]).mean[:] = 0


def test_tensors(caller: Caller, images: Bytes) -> None:
    full = caller.ask("reconstruct", images[:2], losses=True)
    tensors = full.to_torch()
    losses = {"reconstruction_loss", "kl_divergence", "elbo", "plug_in_elbo"}
    assert tensors.keys() == {"pixels", "mean", "log_variance", *losses}
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        np.testing.assert_array_equal(tensor.numpy(), getattr(full, name))


@pytest.mark.parametrize("count", [1, 5])
def test_pictures_are_the_service_s_own(caller: Caller, served: Running, tmp_path: Path, count: int) -> None:
    z = np.random.default_rng(0).standard_normal((count, 3)).tolist()
    wanted = read_png(served.client.post("/decode", json=z).content)
    decoded = caller.ask("decode", z)
    decoded.save(tmp_path / "sheet.png")
    for told in (decoded.to_png(), (tmp_path / "sheet.png").read_bytes()):
        assert np.abs(read_png(told).astype(int) - wanted).max() <= 1  # it decodes straight to bytes
    pictures = decoded.to_pil()
    assert len(pictures) == count
    assert all((picture.mode, picture.size) == ("L", (28, 28)) for picture in pictures)
    np.testing.assert_array_equal(np.asarray(pictures[0]), read_png(decoded.to_png())[:28, :28])


def test_colours_stay_apart() -> None:
    pixels = np.zeros((2, 3, 4, 6), np.float32)
    pixels[0, 0], pixels[1, 2] = 1, 1
    colour = Images(pixels=pixels)
    assert [picture.getpixel((5, 3)) for picture in colour.to_pil()] == [(255, 0, 0), (0, 0, 255)]
    with Image.open(io.BytesIO(colour.to_png())) as sheet:
        assert sheet.size == (12, 4)
        assert (sheet.getpixel((5, 3)), sheet.getpixel((6, 0))) == ((255, 0, 0), (0, 0, 255))


def test_files_of_arrays(caller: Caller, images: Bytes, tmp_path: Path) -> None:
    posterior = caller.ask("encode", images[:2])
    full = caller.ask("reconstruct", images[:2], losses=True)
    for answer, names in ((posterior, ("mean", "log_variance")), (full, ("pixels", "mean", "elbo"))):
        answer.save(tmp_path / "arrays.npz")
        with np.load(tmp_path / "arrays.npz") as saved, np.load(io.BytesIO(answer.to_npz())) as told:
            for name in names:
                np.testing.assert_array_equal(saved[name], getattr(answer, name))
                np.testing.assert_array_equal(told[name], getattr(answer, name))
    with pytest.raises(ValueError, match=r"does not end in \.npz"):
        posterior.save(tmp_path / "arrays.png")
