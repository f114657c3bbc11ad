"""A model whose latents are maps, from the training to responses over HTTP."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vae
from service.inference.onnx_backend import OnnxBackend
from tests.service.pictures import npy, png
from tests.service.problems import problem
from tests.service.running import running
from tests.training.conftest import sample_digits, write_digits
from training.__main__ import _parse, main
from training.fitting.model_card import command
from training.metrics.importance import _log_weights
from vae.model import reparameterize
from vae.objective import log_importance_weight
from vae_client import Client

pytestmark = pytest.mark.slow

JSON, NPY, PNG = "application/json", "application/x-npy", "image/png"
SHAPE = (2, 7, 7)
NETWORK = ["--architecture", "resnet", "--hidden-dim", "16", "--latent-shape", "2,7,7"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_digits(folder, sample_digits())
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    out = tmp_path_factory.mktemp("fitted") / "maps.safetensors"
    options = [
        "--data-dir",
        str(data_dir),
        "--out",
        str(out),
        "--epochs",
        "2",
        "--device",
        "cpu",
        "--validation",
        "100",
    ]
    assert main(["fit", *NETWORK, *options]) == 0
    return out


@pytest.fixture(scope="module")
def model(fitted: Path) -> vae.VAE:
    return vae.load(fitted).model


@pytest.fixture(scope="module")
def client(fitted: Path) -> Iterator[httpx.Client]:
    with running(checkpoint=fitted) as service:
        assert isinstance(service.context.engine._backend, OnnxBackend)
        yield service.client


@pytest.fixture(scope="module")
def x(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images[:4, None]).float() / 255


def test_the_files_of_a_training(fitted: Path) -> None:
    checkpoint = vae.load(fitted)
    assert checkpoint.model.config == vae.VAEConfig("resnet", hidden_dim=16, hidden_layers=1, latent_map=SHAPE)
    metrics = checkpoint.metrics
    channels = [metrics[f"test_kl_divergence_{channel}"] for channel in (1, 2)]
    assert "test_kl_divergence_3" not in metrics
    assert sum(channels) == pytest.approx(metrics["test_kl_divergence"], rel=1e-4)
    assert 0 < metrics["test_active_units"] <= 98
    written = fitted.with_suffix(".md").read_text()
    assert "images of 1×28×28 in latents of 2×7×7" in written
    assert "– of channel 2 |" in written
    assert "| of 98 |" in written
    options = _parse(shlex.split(command(checkpoint))[1:])
    assert options.config.to_metadata().items() <= checkpoint.training.items()
    assert vae.LatentSet.load(fitted, checkpoint.sha256) is None  # they would be larger than the images


def test_a_training_is_continued(
    fitted: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "more.safetensors"
    options = ["fit", "--init-from", str(fitted), "--data-dir", str(data_dir), "--out", str(out), "--epochs", "1"]
    assert main([*options, *NETWORK]) == 0
    assert "resnet, hidden width 16, latents of 2×7×7." in capsys.readouterr().out
    assert main([*options, "--latent-shape", "2,4,4", "--architecture", "resnet"]) == 2
    assert "has --latent-shape 2,7,7; --latent-shape 2,4,4 was given" in capsys.readouterr().err


def test_an_impossible_size_is_refused(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.safetensors"
    options = ["--architecture", "resnet", "--latent-shape", "2,5,5", "--data-dir", str(data_dir), "--out", str(out)]
    assert main(["fit", *options]) == 2
    printed = capsys.readouterr().err
    assert "--latent-shape cannot be used: " in printed
    assert "one of: 14×14, 7×7, 4×4." in printed


def test_plots_but_for_the_manifold(
    fitted: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", str(fitted), "--out", str(tmp_path), "--data-dir", str(data_dir)]) == 0
    assert "The latents are maps: the manifold" in capsys.readouterr().err
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {"latent3d", "latents", "reconstructions", "samples", "interpolations", "losses", "unusual"}


def test_the_bound_is_that_of_single_weights(model: vae.VAE, x: torch.Tensor) -> None:
    with torch.inference_mode():
        mean, log_variance = model.encode(x)
        noise = torch.randn(len(x), 3, *SHAPE, generator=torch.Generator().manual_seed(0))
        weights = _log_weights(model, x, mean, log_variance, noise)
        for sample in range(3):
            z = reparameterize(mean, log_variance, noise=noise[:, sample])
            expected = log_importance_weight(model.decode(z), x, z, mean, log_variance)
            assert torch.allclose(weights[:, sample], expected, rtol=1e-4)


def test_encodings_are_maps_as_vectors(
    fitted: Path, model: vae.VAE, x: torch.Tensor, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    np.save(tmp_path / "digits.npy", images[:4])
    arguments = ["--out", str(tmp_path / "out"), "--checkpoint", str(fitted), "--draws", "4"]
    assert main(["encode", str(tmp_path / "digits.npy"), *arguments]) == 0
    rows = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pydict()
    mean, log_variance = model.encode(x)
    assert np.allclose(rows["mean"], mean.flatten(1).numpy(), atol=1e-5)
    assert np.allclose(rows["log_variance"], log_variance.flatten(1).numpy(), atol=1e-5)
    assert np.isfinite(rows["elbo"]).all()


def test_the_service_computes_maps(client: httpx.Client, model: vae.VAE, x: torch.Tensor) -> None:
    described = client.get("/model").json()
    assert (described["architecture"], described["latent_shape"], described["latent_dim"]) == (
        "resnet",
        [2, 7, 7],
        None,
    )
    headers = {"content-type": NPY, "accept": JSON}
    mean, log_variance = (values.numpy() for values in model.encode(x))
    answer = client.post("/encode", content=npy(x.numpy()), headers=headers).json()
    assert np.allclose(answer["mean"], mean, atol=1e-4)
    assert np.allclose(answer["log_variance"], log_variance, atol=1e-4)

    pixels = torch.sigmoid(model.decode(torch.from_numpy(mean))).numpy()
    for z, expected in ((mean, pixels), (mean[0], pixels[0])):
        answer = client.post("/decode", json=z.tolist(), headers={"accept": JSON}).json()
        assert np.allclose(answer["pixels"], expected, atol=1e-4)
    drawn = Image.open(io.BytesIO(client.post("/decode", json=mean[0].tolist()).content))
    assert np.abs(np.asarray(drawn) - 255 * pixels[0, 0]).max() <= 0.51

    answer = client.post("/reconstruct", content=npy(x.numpy()), headers=headers).json()
    assert np.allclose(answer["pixels"], pixels, atol=1e-4)
    loss = vae.reconstruction_loss(model.decode(torch.from_numpy(mean)), x).numpy()
    assert np.allclose(answer["reconstruction_loss"], loss, rtol=1e-4)

    answer = client.get("/sample?n=3&seed=1", headers={"accept": JSON}).json()
    assert np.shape(answer["z"]) == (3, *SHAPE)
    answer = client.post("/interpolate", json={"from": mean[0].tolist(), "to": mean[1].tolist(), "steps": 3})
    assert Image.open(io.BytesIO(answer.content)).size == (84, 28)
    problem(client.post("/traverse", json={"at": [0, 0], "dimensions": [0]}), 404)
    problem(client.get("/latents"), 404)
    assert client.get("/web/spread.json").json() is None


def test_pictures_and_the_open_inference_protocol(
    client: httpx.Client, model: vae.VAE, x: torch.Tensor, images: NDArray[np.uint8]
) -> None:
    mean = model.encode(x)[0].numpy()
    answer = client.post("/encode", content=png(images[0]), headers={"content-type": PNG}).json()
    assert np.allclose(answer["mean"], mean[0], atol=1e-4)
    tensor = {"name": "z", "shape": [4, *SHAPE], "datatype": "FP32", "data": mean.ravel().tolist()}
    answer = client.post("/v2/models/maps/infer", json={"inputs": [tensor]})
    outputs = {output["name"]: output for output in json.loads(answer.content)["outputs"]}
    assert outputs["image"]["shape"] == [4, 1, 28, 28]
    assert np.allclose(
        outputs["image"]["data"], torch.sigmoid(model.decode(torch.from_numpy(mean))).flatten(), atol=1e-4
    )


def test_the_client_has_maps(client: httpx.Client, model: vae.VAE, x: torch.Tensor) -> None:
    with Client(base_url=str(client.base_url)) as ours:
        posterior = ours.encode(x.numpy())
        assert np.allclose(posterior.mean, model.encode(x)[0].numpy(), atol=1e-4)
        assert ours.decode(posterior.mean).pixels.shape == (4, 1, 28, 28)
        assert ours.decode(posterior.mean[0]).pixels.shape == (1, 28, 28)
