"""The distribution of a score over validation images."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae
from training.__main__ import main
from training.data.dataset import Dataset
from training.data.load import load
from training.metrics.calibration import BOUND_SAMPLES, calibrate
from training.metrics.elbo import latent_means
from training.metrics.references import collect_references
from vae.calibration import LEVELS, SCORES

ROOT = Path(__file__).parents[3]


def test_fit_calibrates_on_its_validation_images(fitted: Path, data_dir: Path) -> None:
    checkpoint = vae.load(fitted)
    train, _ = load("mnist", data_dir, None)
    train, validation = train.split(checkpoint.training["data"]["validation_share"])
    references = checkpoint.references
    assert references is not None
    np.testing.assert_array_equal(references.mean, collect_references(checkpoint.model, train).mean)
    assert checkpoint.calibration == calibrate(checkpoint.model, validation.images, references=references)
    assert checkpoint.calibration is not None
    assert (checkpoint.calibration.score, checkpoint.calibration.images) == ("outlier_factor", len(validation))
    scores = checkpoint.model.score(validation.images.float() / 255, draws=2).as_dict()
    values = {name: each.numpy() for name, each in scores.items()}
    factor = values["outlier_factor"]
    assert checkpoint.calibration.highest_loss == pytest.approx(values["reconstruction_loss"].max(), rel=1e-5)
    median = checkpoint.calibration.quantiles[LEVELS.index(0.5)]
    assert np.median(factor) == pytest.approx(median, rel=1e-5)
    percentiles = checkpoint.calibration.percentile(values)
    assert percentiles.mean() == pytest.approx(0.5, abs=0.01)


def test_references_are_spaced_evenly_over_the_training_set(
    fitted: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (train, _) = vae.load(fitted).model, load("mnist", data_dir, None)
    monkeypatch.setattr("vae.outliers.COUNT_LIMIT", 100)
    monkeypatch.setattr("training.metrics.references.BATCH", 30)
    taken: list[int] = []
    take = Dataset.take

    def recorded(dataset: Dataset, indices: torch.Tensor) -> torch.Tensor:
        taken.append(len(indices))
        return take(dataset, indices)

    monkeypatch.setattr(Dataset, "take", recorded)
    references = collect_references(model, train)
    assert taken == [30, 30, 30, 10]  # never the whole set, which may be mapped from a file
    expected = latent_means(model, train.images[::4]).numpy()
    np.testing.assert_allclose(references.mean, expected, rtol=1e-3, atol=1e-3)  # float16


def test_outlier_factors_need_references(fitted: Path, data_dir: Path) -> None:
    with pytest.raises(ValueError, match="give them, or another score"):
        calibrate(vae.load(fitted).model, load("mnist", data_dir, None)[1].images)


def test_without_validation_images_there_is_no_calibration(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    options = ["--epochs", "1", "--hidden-dim", "4", "--validation", "0", "--device", "cpu"]
    assert main(["fit", "--data-dir", str(data_dir), "--out", str(out), *options]) == 0
    assert vae.load(out).calibration is None
    assert vae.load(out).references is not None


@pytest.mark.parametrize("score", SCORES)
def test_every_score_can_be_calibrated(fitted: Path, score: str, data_dir: Path) -> None:
    model, images = vae.load(fitted).model, load("mnist", data_dir, None)[1].images[:30]
    assert model.metadata
    references = model.metadata.references
    calibration = calibrate(model, images.repeat(40, 1, 1, 1), score, references=references)  # more than a batch
    samples = BOUND_SAMPLES if score == "neg_importance_weighted_bound" else 0
    assert (calibration.samples, calibration.images) == (samples, 1200)
    scores = model.score(images.float() / 255, samples=samples).as_dict()
    values = {name: tensor.numpy() for name, tensor in scores.items()}
    assert calibration.applies(values, samples)
    assert calibration.percentile(values).mean() == pytest.approx(0.5, abs=0.02)


def test_the_worked_example_of_the_page_runs(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    section = page.partition("\n## Anomaly detection\n")[2].partition("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(data_dir)
    names: dict[str, Any] = {}
    for language, block in re.findall(r"^```(python|sh)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE):
        if language == "python":  # a zero is easier to find: the sample has too few images for a four
            exec(block.replace("!= 4", "!= 0").replace("== 4", "== 0"), names)
        for command in block.splitlines() if language == "sh" else ():
            assert main(command.split()[1:]) == 0
    assert re.search(r"AUROC 0\.\d{3}; anomalous are \d+\.\d% of the left-out digit", capsys.readouterr().out)
    assert names["auroc"] > 0.6
    assert len(names["scores"]) == 200


def test_noise_is_beyond_all_images(fitted: Path) -> None:
    """Its loss is, even where its latent is a usual one."""
    checkpoint = vae.load(fitted)
    noise = torch.rand(50, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    values = {name: each.numpy() for name, each in checkpoint.model.score(noise).as_dict().items()}
    assert checkpoint.calibration is not None
    assert (checkpoint.calibration.percentile(values) == 1).all()
