"""Exported files compute the same as the checkpoint for any batch size; one that does not is removed."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import vae
from training.export import Encoder, ExportError, export

pytestmark = pytest.mark.slow


NETWORKS: list[dict[str, Any]] = [
    {"architecture": "mlp"},
    {"architecture": "conv"},
    {"architecture": "resnet"},
    {"architecture": "resnet", "latent_map": (4, 5, 4)},
    {"likelihood": "continuous-bernoulli"},
    {"likelihood": "gaussian", "scale": "pixel"},
]


@pytest.fixture(params=NETWORKS, ids=str)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> vae.Checkpoint:
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    config = vae.VAEConfig(**request.param, image_shape=(3, 10, 7), hidden_dim=16, latent_dim=5)
    vae.save(path, vae.VAE(config), training={}, metrics={})
    return vae.load(path)


def image_of(model: vae.VAE, z: torch.Tensor) -> torch.Tensor:
    return model.to_image_(model.decode(z))


def test_onnx_runs_with_any_batch(checkpoint: vae.Checkpoint, tmp_path: Path) -> None:
    encoder, decoder = export(checkpoint, "onnx", tmp_path / "exported")
    assert [path.name for path in (encoder, decoder)] == ["small.encoder.onnx", "small.decoder.onnx"]
    images = torch.rand(13, 3, 10, 7)
    mean, log_variance = onnxruntime.InferenceSession(encoder).run(["mean", "log_variance"], {"image": images.numpy()})
    (pixels,) = onnxruntime.InferenceSession(decoder).run(["image"], {"z": mean})
    expected_mean, expected_log_variance = checkpoint.model.encode(images)
    assert np.abs(mean - expected_mean.numpy()).max() < 1e-5
    assert np.abs(log_variance - expected_log_variance.numpy()).max() < 1e-5
    assert np.abs(pixels - image_of(checkpoint.model, expected_mean).numpy()).max() < 1e-5


def test_torch_export_runs_with_any_batch(checkpoint: vae.Checkpoint, tmp_path: Path) -> None:
    encoder, decoder = export(checkpoint, "torch-export", tmp_path)
    images = torch.rand(13, 3, 10, 7)
    mean, _ = torch.export.load(encoder).module()(images)
    (pixels,) = torch.export.load(decoder).module()(mean)
    assert (mean - checkpoint.model.encode(images)[0]).abs().max() < 1e-5
    assert (pixels - image_of(checkpoint.model, mean)).abs().max() < 1e-5


@pytest.mark.parametrize("checkpoint", NETWORKS[:1], indirect=True)
def test_a_file_that_differs_is_removed(
    checkpoint: vae.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Encoder.forward

    def wrong(self: Encoder, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_variance = right(self, image)
        return (mean + 2e-5 if torch.compiler.is_exporting() else mean), log_variance

    monkeypatch.setattr(Encoder, "forward", wrong)
    with pytest.raises(ExportError, match=r"small\.encoder\.pt2 differed .* and was removed"):
        export(checkpoint, "torch-export", tmp_path / "exported")
    assert not list((tmp_path / "exported").iterdir())
