"""Scores of images as tensors."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import vae
from tests.vae import reference as numpy_reference
from tests.vae.reference import Reference
from vae import score as score_module
from vae.noise import image_noise

NAMES = ["elbo", "elbo_standard_error", "reconstruction_loss", "kl_divergence"]


@pytest.mark.parametrize(("draws", "samples"), [(12, 30), (30, 12)])
def test_scores_are_those_of_the_reference(
    bundled: vae.Checkpoint, x: torch.Tensor, reference: Reference, draws: int, samples: int
) -> None:
    x = x[:20]
    flat = x.flatten(1).double().numpy()
    mean, log_variance = reference.encode(flat)
    noise = image_noise(x.numpy(), 30, (3,), 5).astype(np.float64).swapaxes(0, 1)
    z = mean + np.exp(log_variance / 2) * noise
    losses = np.stack([numpy_reference.reconstruction_loss(reference.logits(each), flat) for each in z])
    kl = numpy_reference.kl_divergence(mean, log_variance)
    log_weights = 0.5 * (noise**2 + log_variance - z**2).sum(2) - losses
    expected = {
        "elbo": -(losses[:draws].mean(0) + kl),
        "elbo_standard_error": losses[:draws].std(0, ddof=1) / math.sqrt(draws),
        "reconstruction_loss": numpy_reference.reconstruction_loss(reference.logits(mean), flat),
        "kl_divergence": kl,
        "importance_weighted_bound": np.logaddexp.reduce(log_weights[:samples], 0) - math.log(samples),
    }
    found = bundled.model.score(x, draws=draws, samples=samples, seed=5).as_dict()
    assert list(found) == [*NAMES, "importance_weighted_bound"]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].numpy(), values, rtol=2e-4, err_msg=name)


def test_scores_do_not_depend_on_the_batch(
    bundled: vae.Checkpoint, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bundled.model.score(x[:50], samples=20).as_dict()
    alone = bundled.model.score(x[7:8], samples=20).as_dict()
    monkeypatch.setattr(score_module, "NOISE_LIMIT", 7 * 20 * 3)  # numbers: seven images at a time
    parts = bundled.model.score(x[:50], samples=20).as_dict()
    for name, values in whole.items():
        torch.testing.assert_close(alone[name], values[7:8], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(parts[name], values, rtol=1e-4, atol=1e-4)


def test_a_model_with_references_has_outlier_factors(bundled: vae.Checkpoint, x: torch.Tensor, tmp_path: Path) -> None:
    mean = bundled.model.encode(x)[0].numpy()
    references = vae.References.of(mean[:150])
    vae.save(tmp_path / "m.safetensors", bundled.model, training={}, metrics={}, references=references)
    model = vae.load(tmp_path / "m.safetensors").model
    scores = model.score(x, draws=2)
    assert list(scores.as_dict()) == [*NAMES, "outlier_factor"]
    assert scores.outlier_factor is not None
    np.testing.assert_allclose(scores.outlier_factor.numpy(), references.outlier_factor(mean), rtol=1e-5)
    assert scores.outlier_factor[:150].mean() < scores.outlier_factor[150:].mean()  # a reference is its own neighbour


def test_more_draws_and_samples_improve_the_estimates(bundled: vae.Checkpoint, x: torch.Tensor) -> None:
    few, many = (bundled.model.score(x[:100], draws=count, samples=count) for count in (5, 100))
    assert few.importance_weighted_bound is not None
    assert many.importance_weighted_bound is not None
    assert many.elbo_standard_error.mean() < few.elbo_standard_error.mean() / 2
    assert few.elbo.mean() + 0.5 < few.importance_weighted_bound.mean() < many.importance_weighted_bound.mean() - 0.5


def test_pixel_losses_add_up_to_the_reconstruction_loss(bundled: vae.Checkpoint, x: torch.Tensor) -> None:
    decoded = bundled.model.decode(bundled.model.encode(x)[0])
    losses = bundled.model.pixel_losses(decoded, x)
    assert losses.shape == x.shape
    torch.testing.assert_close(losses.flatten(1).sum(1), bundled.model.reconstruction_loss(decoded, x))


def test_pixel_losses_of_colours_are_added_up() -> None:
    torch.manual_seed(0)
    model = vae.VAE(vae.VAEConfig(image_shape=(3, 4, 5), hidden_dim=4, latent_dim=2)).requires_grad_(False)
    x = torch.rand(6, 3, 4, 5)
    decoded = model.decode(model.encode(x)[0])
    losses = model.pixel_losses(decoded, x)
    assert losses.shape == (6, 1, 4, 5)
    torch.testing.assert_close(losses.flatten(1).sum(1), model.reconstruction_loss(decoded, x))


def test_a_model_in_float64(small: vae.VAE, x: torch.Tensor) -> None:
    scores = small.double().score(x[:3].double())
    torch.testing.assert_close(scores.elbo, small.float().score(x[:3]).elbo, rtol=1e-4, atol=1e-3, check_dtype=False)
    assert not scores.elbo.requires_grad


@pytest.mark.parametrize("options", [{"draws": 1}, {"samples": -1}])
def test_numbers_out_of_range(small: vae.VAE, x: torch.Tensor, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="they must be at least 2 and 0"):
        small.score(x[:1], **options)
