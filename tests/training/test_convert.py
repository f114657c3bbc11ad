"""vae-train convert."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae
from training.__main__ import main
from vae.arrays import read

CONFIG = vae.VAEConfig(image_shape=(1, 4, 4), hidden_dim=4, latent_dim=2)


@pytest.fixture
def model() -> vae.VAE:
    torch.manual_seed(0)
    return vae.VAE(CONFIG).eval()


def test_the_articles_file_becomes_a_checkpoint(
    model: vae.VAE, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "article.pt", tmp_path / "out.safetensors"
    torch.save(model.state_dict(), source)
    assert main(["convert", str(source), str(target)]) == 0
    assert f"vae-serve --checkpoint {target}" in capsys.readouterr().out
    stored = read(target)
    assert stored.config == CONFIG
    assert stored.probes is not None
    assert all(np.array_equal(stored.arrays[name], tensor) for name, tensor in model.state_dict().items())


def test_a_checkpoint_keeps_what_it_has(model: vae.VAE, tmp_path: Path) -> None:
    """In place, with the latents that lie beside it."""
    path = tmp_path / "m.safetensors"
    ones = np.ones(3, np.float32)
    calibration = vae.Calibration.of(ones, ones, "outlier_factor", draws=10, samples=0, seed=0)
    references = vae.References.of(np.random.default_rng(0).random((12, CONFIG.latent_dim), np.float32))
    described: dict[str, Any] = {"training": {"epochs": 3}, "metrics": {"elbo": -1.0}}
    vae.save(path, model, **described, calibration=calibration, references=references)
    before = vae.load(path)
    latents = vae.LatentSet(np.ones((3, 2), np.float32), np.arange(3))
    latents.save(path, before.sha256)
    assert main(["convert", str(path), str(path)]) == 0
    after = vae.load(path)
    assert (after.training, after.metrics, after.calibration) == ({"epochs": 3}, {"elbo": -1.0}, calibration)
    assert after.references is not None
    np.testing.assert_array_equal(after.references.mean, references.mean)
    kept = vae.LatentSet.load(path, after.sha256)
    assert kept is not None
    assert np.array_equal(kept.mean, latents.mean)


def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.pt").write_bytes(b"no checkpoint")
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "out.safetensors")]) == 1
    assert "cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
