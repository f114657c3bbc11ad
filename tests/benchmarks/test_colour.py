import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vae
from benchmarks import colour
from benchmarks.harness import pages
from tests.training.conftest import sample_digits

pytestmark = pytest.mark.slow

MODELS = {
    "mlp-2": replace(colour.BASE, architecture="mlp", latent_dim=2, hidden_dim=8, epochs=1),
    "resnet-177": replace(colour.BASE, architecture="resnet", latent_shape=(1, 7, 7), hidden_dim=8, epochs=1),
}
LEVELS = np.random.default_rng(0).integers(0, 256, (2, 11, 11))
"""Two grey pictures as large as the window of SSIM, so that it has one place."""


def as_picture(levels: np.ndarray) -> torch.Tensor:
    """Three equal channels, uint8 (1, 3, H, W)."""
    return torch.from_numpy(levels.astype(np.uint8)).expand(1, 3, *levels.shape).contiguous()


def test_psnr_of_a_constant_difference() -> None:
    black = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    psnr, _ = colour.similarity(black, black + torch.tensor([16, 32], dtype=torch.uint8).view(2, 1, 1, 1))
    assert psnr == pytest.approx(10 * math.log10(255**2 / (16 * 32)))  # the mean of both


def test_ssim_is_that_of_wang_et_al() -> None:
    at = np.arange(-5, 6)
    gaussian = np.exp(-(at**2) / (2 * 1.5**2))
    window = np.outer(gaussian, gaussian) / gaussian.sum() ** 2
    x, y = LEVELS
    mean_x, mean_y = (window * x).sum(), (window * y).sum()
    var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
    covariance = (window * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    expected = luminance * (2 * covariance + c2) / (var_x + var_y + c2)
    assert colour.similarity(as_picture(x), as_picture(y))[1] == pytest.approx(expected, abs=1e-6)
    assert colour.similarity(as_picture(x), as_picture(255 - x))[1] < 0


def test_a_model_is_measured_in_bits_and_by_its_8_bit_reconstructions() -> None:
    torch.manual_seed(0)
    model = vae.VAE(vae.VAEConfig(image_shape=(3, 11, 11), hidden_dim=8, likelihood="logistic", scale="pixel"))
    model.eval().requires_grad_(requires_grad=False)
    images = torch.cat([as_picture(levels) for levels in LEVELS])
    quality = colour.measure(model, images)
    scores = model.score(images / 255)
    bits = math.log(2) * 3 * 11 * 11
    assert quality.bits_per_dim == pytest.approx(-scores.elbo.mean().item() / bits, rel=1e-5)
    assert quality.kl_bits_per_dim == pytest.approx(scores.kl_divergence.mean().item() / bits, rel=1e-4)
    reconstructions = np.rint(model.reconstruct(images / 255).numpy() * 255)
    errors = ((reconstructions - images.numpy()) ** 2).mean((1, 2, 3))
    assert quality.psnr == pytest.approx((10 * np.log10(255**2 / errors)).mean())


def test_it_trains_measures_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    figure = tmp_path / "colour.webp"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pages, "HERE", tmp_path / "benchmarks")
    for name, value in {"MODELS": MODELS, "FIGURE": figure, "SPEED_IMAGES": 64, "SPEED_ROUNDS": 1}.items():
        monkeypatch.setattr(colour, name, value)
    digits = list(sample_digits().values())
    for part, (images, labels) in {"train": digits[:2], "test": digits[2:]}.items():
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "pictures" / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).convert("RGB").save(folder / f"{index}.png")

    def page(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["colour", "pictures", *options])
        colour.main()
        return (tmp_path / "benchmarks" / "colour.md").read_text()

    written = page()
    assert "\n\n200 test pictures" in written
    rows = [line.split(" | ") for line in written.splitlines() if line.startswith(("| mlp", "| resnet"))]
    assert [row[1] for row in rows] == ["2", "1×7×7"]
    assert all(0 <= float(row[3]) < float(row[2]) < 8 for row in rows)
    assert all("–" not in row for row in rows)
    with Image.open(figure) as picture:
        assert picture.format == "WEBP"

    (tmp_path / "out" / "colour" / "mlp-2.md").unlink()
    unfinished, finished = (
        line for line in page("--checkpoints", "out/colour").splitlines() if "| mlp" in line or "| resnet" in line
    )
    assert "| mlp | 2 | – | – | – | – | " in unfinished
    assert "–" not in finished
