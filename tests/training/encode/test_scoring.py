"""The columns of scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae
from tests.training.encode.encoding import BUNDLED, Images, encode, last_line, pixels_of, rows_of
from training.metrics.calibration import calibrate
from training.metrics.elbo import latent_means
from vae.noise import image_noise

pytestmark = pytest.mark.slow


def test_draws_add_the_elbo_whatever_the_batch(npy: Path, tmp_path: Path, images: Images) -> None:
    for name, size in (("whole", "200"), ("cut", "7")):
        assert encode(npy, tmp_path / name, "--draws", "10", "--seed", "5", "--batch-size", size) == 0
    (whole, cut) = (rows_of(tmp_path / name) for name in ("whole", "cut"))
    model, x = vae.load(BUNDLED).model, pixels_of(images)
    mean, log_variance = model.encode(x)
    noise = torch.from_numpy(image_noise(images, 10, (3,), 5))
    logits = [model.decode(mean + each * torch.exp(log_variance / 2)) for each in noise.unbind(1)]
    values = torch.stack([vae.elbo(each, x, mean, log_variance) for each in logits]).double()
    expected = {"elbo": values.mean(0), "elbo_standard_error": values.std(0) / 10**0.5}
    for name, each in expected.items():
        for rows in (whole, cut):
            np.testing.assert_allclose([row[name] for row in rows], each.numpy(), rtol=1e-4)


def test_importance_samples_add_the_bound(npy: Path, tmp_path: Path, images: Images) -> None:
    assert encode(npy, tmp_path / "out", "--importance-samples", "20", "--seed", "5") == 0
    rows = rows_of(tmp_path / "out")
    scores = vae.load(BUNDLED).model.score(pixels_of(images), draws=10, samples=20, seed=5).as_dict()
    assert set(rows[0]) == {"id", "mean", "log_variance", *scores}  # the bundled checkpoint has no calibration
    for name, values in scores.items():
        np.testing.assert_allclose([row[name] for row in rows], values.numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    "score", ["neg_elbo", "reconstruction_loss", "neg_importance_weighted_bound", "outlier_factor"]
)
def test_a_calibrated_checkpoint_adds_percentiles(npy: Path, tmp_path: Path, images: Images, score: str) -> None:
    bundled = vae.load(BUNDLED)
    digits = torch.from_numpy(images).unsqueeze(1)
    references = None
    if score == "outlier_factor":
        references = vae.References.of(latent_means(bundled.model, digits[150:]).numpy())
    calibration = calibrate(bundled.model, digits[:150], score, references=references)
    path = tmp_path / "calibrated.safetensors"
    vae.save(path, bundled.model, training={}, metrics={}, calibration=calibration, references=references)

    def columns(name: str, *options: str) -> dict[str, list[Any]]:
        assert encode(npy, tmp_path / name, "--checkpoint", str(path), *options) == 0
        rows = rows_of(tmp_path / name)
        return {column: [row[column] for row in rows] for column in rows[0]}

    own = {"neg_elbo": ["--draws", "10"], "neg_importance_weighted_bound": ["--importance-samples", "100"]}.get(
        score, []
    )
    found = columns("own", *own, "--level", "0.9")
    scores = {
        name: np.array(values, np.float32) for name, values in found.items() if name in vae.Scores.__annotations__
    }
    percentile = calibration.percentile(scores)
    np.testing.assert_allclose(found["percentile"], percentile, atol=1e-6)
    assert found["anomalous"] == (percentile > 0.9).tolist()
    assert 10 < sum(found["anomalous"][:150]) < 20
    assert ("percentile" in columns("losses")) == (not own)
    if references:
        mean = np.array(found["mean"], np.float32)
        np.testing.assert_array_equal(found["outlier_factor"], references.outlier_factor(mean))
        assert columns("drawn", "--draws", "2", "--level", "0.9")["outlier_factor"] == found["outlier_factor"]


def test_an_output_of_an_earlier_release_is_not_continued(
    npy: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its samples had other noise."""
    assert encode(npy, out, "--draws", "2", "--importance-samples", "3", "--seed", "5") == 0
    run = json.loads((out / "encoding.json").read_text())
    assert run.pop("options") == "--draws 2 --seed 5 --importance-samples 3"
    (out / "encoding.json").write_text(json.dumps(run | {"draws": "2", "seed": "5"}))
    assert encode(npy, out, "--draws", "2", "--importance-samples", "3", "--seed", "5") == 2
    assert "--draws by an earlier release, whose samples were others" in last_line(capsys)
