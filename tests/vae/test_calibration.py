"""Quantiles of a score, and the percentiles that follow from them."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from vae.calibration import LEVELS, Calibration


def calibration(score: str = "neg_elbo", samples: int = 0) -> Calibration:
    """Of the scores 0 to 10,000."""
    return Calibration.of(np.arange(10_001, dtype=np.float32), score, draws=10, samples=samples, seed=0)


def test_percentiles_are_the_shares_of_lower_scores() -> None:
    elbo = -np.array([0, 2500, 9900, 9915, 9990, 9999, 10_000], np.float32)
    expected = np.array([0, 0.25, 0.99, 0.9915, 0.999, 0.9999, 1])
    np.testing.assert_allclose(calibration().percentile({"elbo": elbo}), expected, atol=1e-6)


def test_scores_beyond_all_validation_images() -> None:
    found = calibration().percentile({"elbo": np.array([1e9, -1e9], np.float32)})
    assert found.tolist() == [0, 1]
    assert found.dtype == np.float32


def test_other_scores() -> None:
    values = {name: np.array([2500], np.float32) for name in ("reconstruction_loss", "importance_weighted_bound")}
    assert calibration("reconstruction_loss").percentile(values) == pytest.approx(0.25)
    values["importance_weighted_bound"] *= -1
    assert calibration("neg_importance_weighted_bound", 5).percentile(values) == pytest.approx(0.25)


def test_a_calibration_applies_where_its_score_is_computed_alike() -> None:
    assert calibration().applies({"elbo"}, 0)
    assert calibration().applies({"elbo"}, 50)
    assert not calibration().applies({"reconstruction_loss"}, 0)
    bound = calibration("neg_importance_weighted_bound", 50)
    assert bound.applies({"elbo", "importance_weighted_bound"}, 50)
    assert not bound.applies({"elbo", "importance_weighted_bound"}, 100)


def test_one_image_is_enough() -> None:
    one = Calibration.of(np.array([3], np.float32), "neg_elbo", draws=10, samples=0, seed=0)
    assert one.percentile({"elbo": -np.array([2, 4], np.float32)}).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"score": "elbo"}, "the score 'elbo' is not known"),
        ({"draws": 1}, "draws 2 or more"),
        ({"images": 0}, "images 1 or more"),
        ({"samples": 1.5}, "whole numbers"),
        ({"quantiles": [0.0] * 3}, "quantiles must be ascending numbers"),
        ({"quantiles": [float("nan")] * len(LEVELS)}, "quantiles must be ascending numbers"),
        ({"levels": [*LEVELS[:-1], 0.5]}, "levels must be ascending numbers"),
        ({"more": 1}, "it must have the fields"),
    ],
)
def test_damaged_calibrations_are_rejected(changes: dict[str, Any], problem: str) -> None:
    document = asdict(calibration()) | changes
    with pytest.raises(ValueError, match=problem):
        Calibration.parse(document)
