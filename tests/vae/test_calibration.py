"""Quantiles of a score, and the percentiles that follow from them."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from vae.calibration import LEVELS, Calibration


def calibration(score: str = "neg_elbo", samples: int = 0) -> Calibration:
    """Of the scores 0 to 10,000, and losses of at most 9,000."""
    scores = np.arange(10_001, dtype=np.float32)
    return Calibration.of(scores, 0.9 * scores, score, draws=10, samples=samples, seed=0)


def percentile(calibration: Calibration, values: dict[str, list[float]], loss: float = 0) -> list[float]:
    arrays = {name: np.array(each, np.float32) for name, each in values.items()}
    (count,) = {len(each) for each in arrays.values()}
    shares = calibration.percentile({"reconstruction_loss": np.full(count, loss, np.float32)} | arrays)
    assert shares.dtype == np.float32
    found: list[float] = shares.tolist()
    return found


def test_percentiles_are_the_shares_of_lower_scores() -> None:
    elbo = [0.0, -2500, -9900, -9915, -9990, -9999, -10_000]
    expected = [0, 0.25, 0.99, 0.9915, 0.999, 0.9999, 1]
    assert percentile(calibration(), {"elbo": elbo}) == pytest.approx(expected, abs=1e-6)


def test_scores_beyond_all_validation_images() -> None:
    assert percentile(calibration(), {"elbo": [1e9, -1e9]}) == [0, 1]


def test_an_image_that_is_reconstructed_worse_than_all_is_anomalous() -> None:
    assert percentile(calibration(), {"elbo": [-2500]}, loss=9000) == pytest.approx([0.25])
    assert percentile(calibration(), {"elbo": [-2500]}, loss=9001) == [1]


def test_other_scores() -> None:
    assert percentile(calibration("reconstruction_loss"), {"reconstruction_loss": [2500]}) == pytest.approx([0.25])
    bound = calibration("neg_importance_weighted_bound", 5)
    assert percentile(bound, {"importance_weighted_bound": [-2500]}) == pytest.approx([0.25])


def test_a_calibration_applies_where_its_score_is_computed_alike() -> None:
    assert calibration().applies({"elbo"}, 0)
    assert calibration().applies({"elbo"}, 50)
    assert not calibration().applies({"reconstruction_loss"}, 0)
    bound = calibration("neg_importance_weighted_bound", 50)
    assert bound.applies({"elbo", "importance_weighted_bound"}, 50)
    assert not bound.applies({"elbo", "importance_weighted_bound"}, 100)


def test_one_image_is_enough() -> None:
    score = np.array([3], np.float32)
    one = Calibration.of(score, score, "neg_elbo", draws=10, samples=0, seed=0)
    assert percentile(one, {"elbo": [-2, -4]}) == [0, 1]


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
        ({"highest_loss": float("inf")}, "highest_loss must be a finite number"),
        ({"highest_loss": None}, "highest_loss must be a finite number"),
        ({"more": 1}, "it must have the fields"),
    ],
)
def test_damaged_calibrations_are_rejected(changes: dict[str, Any], problem: str) -> None:
    document = asdict(calibration()) | changes
    with pytest.raises(ValueError, match=problem):
        Calibration.parse(document)
