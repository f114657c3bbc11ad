"""Outlier factors of latents among references."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

import vae
from vae import outliers
from vae.outliers import NEIGHBOURS, References, reference_count

Floats = NDArray[np.floating[Any]]


def latents(count: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    """Two clusters, of which the second is ten times as dense."""
    rng = np.random.default_rng(seed)
    dense = rng.random((count, 1)) < 0.5
    spread = rng.standard_normal((count, dimensions)) * np.where(dense, 0.1, 1)
    return (spread + 5 * dense).astype(np.float32)


def plain_distances(a: Floats, b: Floats) -> Floats:
    difference = a[:, None].astype(np.float64) - b[None].astype(np.float64)
    distances: Floats = np.sqrt((difference**2).sum(2))
    return distances


def plain_factor(mean: Floats, references: Floats, k: int) -> Floats:
    """The definition, without its guard against division by zero."""
    own = plain_distances(references, references)
    np.fill_diagonal(own, np.inf)
    own_mean = np.sort(own, 1)[:, :k].mean(1)
    distances = plain_distances(mean, references)
    nearest = distances.argsort(1)[:, :k]
    factor: Floats = np.take_along_axis(distances, nearest, 1).mean(1) / own_mean[nearest].mean(1)
    return factor


@pytest.mark.parametrize(("count", "dimensions", "block"), [(500, 3, 2**18), (300, 40, 7 * 640), (50, 200, 1)])
def test_factors_are_those_of_the_definition(
    count: int, dimensions: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outliers, "BLOCK", block)  # of all latents, of seven, and of one
    references = References.of(latents(count, dimensions))
    mean = latents(60, dimensions, seed=1)
    np.testing.assert_array_equal(references.mean, latents(count, dimensions).astype(np.float16))
    expected = plain_factor(mean, references.mean, NEIGHBOURS)
    found = references.outlier_factor(mean)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_factor_depends_on_no_other_latent() -> None:
    references = References.of(latents(3000, 32))
    mean = latents(200, 32, seed=1)
    whole = references.outlier_factor(mean)
    np.testing.assert_array_equal(references.outlier_factor(mean[::-1]), whole[::-1])
    np.testing.assert_array_equal([references.outlier_factor(each[None])[0] for each in mean], whole)


def test_near_references_are_compared_exactly() -> None:
    """Far from zero, where |a|² + |b|² − 2ab rounds to zero, or below it."""
    grid = 2000 + np.arange(16, dtype=np.float32)[:, None].repeat(8, 1)  # float16 has these numbers
    references = References.of(grid)
    mean = grid[5:8] + np.float32(0.25)
    np.testing.assert_allclose(references.outlier_factor(mean), plain_factor(mean, grid, NEIGHBOURS), rtol=1e-5)


def test_the_density_of_the_neighbours_counts() -> None:
    """A latent at the same distance from a dense cluster is less usual there than from a sparse one."""
    rng = np.random.default_rng(0)
    sparse, dense = rng.standard_normal((200, 2)), 0.01 * rng.standard_normal((200, 2)) + 50
    references = References.of(np.concatenate([sparse, dense]).astype(np.float32))
    usual, beside_sparse, beside_dense = references.outlier_factor(np.array([[0, 0], [1, 1], [51, 51]], np.float32))
    assert 0.3 < usual < 3
    assert beside_dense > 20 * beside_sparse


def test_equal_references() -> None:
    references = References.of(np.ones((40, 2), np.float32))
    assert references.distance.tolist() == [0] * 40
    among, beside = references.outlier_factor(np.array([[1, 1], [1, 2]], np.float32))
    assert among == 1
    assert 1e6 < beside < np.inf


@pytest.mark.parametrize("count", [2, 5, NEIGHBOURS, NEIGHBOURS + 1])
def test_few_references_are_all_compared_with(count: int) -> None:
    mean, points = latents(20, 3, seed=1), latents(count, 3)
    references = References.of(points)
    own = plain_distances(references.mean, references.mean).sum(1) / min(NEIGHBOURS, count - 1)
    if count <= NEIGHBOURS:
        np.testing.assert_allclose(references.distance, own, rtol=1e-5)
        expected = plain_distances(mean, references.mean).mean(1) / own.mean()
        np.testing.assert_allclose(references.outlier_factor(mean), expected, rtol=1e-4)
    assert np.isfinite(References.of(points[:1]).outlier_factor(mean)).all()


def test_maps_are_vectors() -> None:
    references = References.of(latents(50, 12))
    mean = latents(7, 12, seed=1)
    expected = references.outlier_factor(mean)
    np.testing.assert_array_equal(references.outlier_factor(mean.reshape(7, 3, 2, 2)), expected)


def test_latents_beyond_float16_are_limited() -> None:
    references = References.of(np.array([[1e9, 0], [-1e9, 0], [0, 0]], np.float32))
    assert references.mean[:2, 0].tolist() == [65504, -65504]


def test_the_number_of_references_is_limited() -> None:
    assert [reference_count(images, vae.VAEConfig(latent_dim=32)) for images in (1, 999, 60_000)] == [1, 999, 10_000]
    maps = vae.VAEConfig("resnet", (3, 32, 32), latent_map=(8, 8, 8))
    assert reference_count(60_000, maps) == 2**21 // 512


def test_references_are_kept_as_text() -> None:
    references = References.of(latents(30, 6))
    read = References.parse(str(references), vae.VAEConfig(latent_dim=6))
    np.testing.assert_array_equal(read.mean, references.mean)
    np.testing.assert_array_equal(read.distance, references.distance)
    assert len(str(references)) < 2 * 30 * 6 * 4


SOUND: dict[str, NDArray[Any]] = {"mean": np.zeros((5, 2), np.float16), "distance": np.ones(5, np.float32)}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mean": np.zeros((5, 3), np.float16)}, "wrong shape or dtype"),
        ({"mean": np.zeros((4, 2), np.float16)}, "wrong shape or dtype"),
        ({"mean": np.zeros((5, 2), np.float32)}, "wrong shape or dtype"),
        ({"mean": np.zeros((0, 2), np.float16), "distance": np.zeros(0, np.float32)}, "wrong shape or dtype"),
        ({"distance": np.array(1, np.float32)}, "wrong shape or dtype"),
        ({"mean": np.full((5, 2), np.inf, np.float16)}, "not finite"),
        ({"distance": np.full(5, np.nan, np.float32)}, "not finite"),
        ({"distance": np.full(5, -1, np.float32)}, "not negative"),
        ({"more": np.zeros(1, np.float32)}, "it must have mean and distance"),
    ],
)
def test_damaged_references_are_rejected(changes: dict[str, Any], problem: str) -> None:
    config = vae.VAEConfig(latent_dim=2)
    References.parse(base64.b64encode(save(SOUND)).decode(), config)
    with pytest.raises(ValueError, match=problem):
        References.parse(base64.b64encode(save(SOUND | changes)).decode(), config)


@pytest.mark.parametrize("text", ["", "?", "ä", "AAAA", base64.b64encode(save({"mean": SOUND["mean"]})).decode()])
def test_text_that_is_no_references_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        References.parse(text, vae.VAEConfig(latent_dim=2))


@pytest.mark.parametrize("digit", [0, 1, 6])
def test_a_digit_that_the_references_lack_has_higher_factors(
    bundled: vae.Checkpoint, x: torch.Tensor, labels: NDArray[np.int64], digit: int
) -> None:
    mean = bundled.model.encode(x)[0].numpy()
    is_known = labels != digit
    references = References.of(mean[is_known][::2])
    known, left_out = references.outlier_factor(mean[is_known][1::2]), references.outlier_factor(mean[~is_known])
    auroc = (left_out[:, None] > known).mean()
    assert auroc > 0.75
    assert np.median(known) == pytest.approx(1, abs=0.3)
