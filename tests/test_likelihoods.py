"""Each likelihood from a training on real digits to responses over HTTP."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import vae
from service.inference.onnx_backend import OnnxBackend
from service.inference.torch_backend import TorchBackend
from tests.service.pictures import npy
from tests.service.running import running
from training.__main__ import main
from vae.arrays import read

pytestmark = pytest.mark.slow

KINDS = [
    ("bernoulli", "model", "mlp"),
    ("continuous-bernoulli", "model", "mlp"),
    ("gaussian", "model", "conv"),
    ("gaussian", "pixel", "mlp"),
    ("logistic", "model", "mlp"),
    ("logistic", "pixel", "conv"),
]
DIGITS = Path(__file__).parent / "data" / "digits.npz"


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a short training."""
    likelihood, scale, architecture = request.param
    folder = tmp_path_factory.mktemp("likelihood")
    with np.load(DIGITS) as sample:
        np.save(folder / "digits.npy", sample["train_images"])
    options = ["--dataset", f"npy:{folder / 'digits.npy'}", "--data-dir", str(folder), "--device", "cpu"]
    options += ["--likelihood", likelihood, "--scale", scale, "--architecture", architecture, "--hidden-dim", "16"]
    options += ["--epochs", "5", "--batch-size", "20", "--warmup-steps", "2"]
    assert main(["fit", *options, "--out", str(folder / "digits.safetensors")]) == 0
    return folder / "digits.safetensors"


def test_a_training_lowers_the_loss(fitted: Path) -> None:
    lines = fitted.with_suffix(".history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["validation_neg_elbo"] for line in lines]
    assert losses[4] < losses[1] < losses[0]
    assert np.isfinite(list(vae.load(fitted).metrics.values())).all()


def test_the_checkpoint_and_its_card_tell_the_likelihood(fitted: Path) -> None:
    checkpoint, card = vae.load(fitted), fitted.with_suffix(".md").read_text()
    config = checkpoint.model.config
    assert (checkpoint.training["likelihood"], checkpoint.training["scale"]) == (config.likelihood, config.scale)
    assert f"--likelihood {config.likelihood} --scale {config.scale}" in card
    assert f"with a {config.likelihood} likelihood" in card
    assert ("| bits/dim |" in card) == ("test_bits_per_dim" in checkpoint.metrics) == (config.likelihood == "logistic")


def test_both_backends_compute_the_models_images_and_losses_row_by_row(fitted: Path) -> None:
    model, stored = vae.load(fitted).model, read(fitted)
    with np.load(DIGITS) as sample:
        images = sample["images"][:24, None].astype(np.float32) / 255
    x = torch.from_numpy(images)
    with torch.inference_mode():
        z = model.encode(x)[0]
        decoded = model.decode(z)
        loss, image = model.reconstruction_loss(decoded, x).numpy(), model.to_image_(decoded.clone()).numpy()
    onnx, row = OnnxBackend(stored.config, stored.arrays), slice(7, 8)
    for backend in (onnx, TorchBackend(model)):
        pixels, losses = backend.reconstruct(z.numpy(), images)
        np.testing.assert_allclose(pixels, image, atol=1e-5)
        np.testing.assert_allclose(losses, loss, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(backend.decode(z.numpy()), pixels)
    alone = onnx.reconstruct(z.numpy()[row], images[row])
    for one, several in zip(alone, onnx.reconstruct(z.numpy(), images), strict=True):
        np.testing.assert_array_equal(one, several[row])


def test_the_service_tells_the_likelihood_and_the_loss(fitted: Path) -> None:
    checkpoint = vae.load(fitted)
    with np.load(DIGITS) as sample:
        image = sample["images"][0]
    x = torch.from_numpy(image)[None, None] / 255
    decoded = checkpoint.model.decode(checkpoint.model.encode(x)[0])
    loss = checkpoint.model.reconstruction_loss(decoded, x).item()
    with running(checkpoint=fitted) as service:
        assert service.client.get("/model").json()["likelihood"] == checkpoint.model.config.likelihood
        headers = {"content-type": "application/x-npy", "accept": "application/json"}
        found = service.client.post("/reconstruct", content=npy(image), headers=headers).json()
    assert found["reconstruction_loss"] == pytest.approx(loss, rel=1e-5, abs=1e-4)
    np.testing.assert_allclose(found["pixels"], checkpoint.model.to_image_(decoded)[0], atol=1e-5)
