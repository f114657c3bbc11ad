import numpy as np
import pytest
import torch

import vae
from tests.vae import reference as numpy_reference
from tests.vae.reference import Reference
from vae.objective import log_importance_weight


def test_losses_match_the_reference(bundled: vae.Checkpoint, reference: Reference, x: torch.Tensor) -> None:
    mean, log_variance = bundled.model.encode(x)
    logits = bundled.model.decode(mean)
    pixels = x.flatten(1).double().numpy()
    wanted_mean, wanted_log_variance = reference.encode(pixels)
    wanted_rate = numpy_reference.kl_divergence(wanted_mean, wanted_log_variance)
    wanted_distortion = numpy_reference.reconstruction_loss(reference.logits(wanted_mean), pixels)

    distortion, rate = vae.reconstruction_loss(logits, x), vae.kl_divergence(mean, log_variance)
    assert distortion.shape == rate.shape == (200,)
    np.testing.assert_allclose(distortion.numpy(), wanted_distortion, rtol=1e-5)
    np.testing.assert_allclose(rate.numpy(), wanted_rate, rtol=1e-5)
    bound = vae.elbo(logits, x, mean, log_variance)
    np.testing.assert_allclose(bound.numpy(), -(wanted_distortion + wanted_rate), rtol=1e-5)


def test_kl_divergence_is_its_integral() -> None:
    mean, log_variance = np.array([-1.5, 0.0, 0.7]), np.array([-2.0, 0.0, 1.0])
    z = np.linspace(-30, 30, 200_001)[:, None]
    log_q = -0.5 * ((z - mean) ** 2 / np.exp(log_variance) + log_variance + np.log(2 * np.pi))
    log_p = -0.5 * (z**2 + np.log(2 * np.pi))
    expected = (np.exp(log_q) * (log_q - log_p)).sum() * (z[1, 0] - z[0, 0])
    kl = vae.kl_divergence(torch.from_numpy(mean)[None], torch.from_numpy(log_variance)[None])
    assert kl.item() == pytest.approx(expected, rel=1e-6)


def test_kl_divergence_of_the_prior_is_zero() -> None:
    assert vae.kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]


def test_reconstruction_loss_of_probability_one_half_is_log_two_per_pixel() -> None:
    loss = vae.reconstruction_loss(torch.zeros(1, 1, 4, 5), torch.rand(1, 1, 4, 5))
    assert loss.item() == pytest.approx(20 * np.log(2), rel=1e-6)


def test_reconstruction_loss_of_large_logits_is_finite() -> None:
    x = torch.tensor([[[[0.0, 1.0]]], [[[1.0, 0.0]]]])
    logits = torch.tensor([[[[-1e4, 1e4]]], [[[-1e4, 1e4]]]])
    assert vae.reconstruction_loss(logits, x).tolist() == [0, 2e4]


def test_importance_weight_is_the_ratio_of_densities() -> None:
    mean, log_variance, z = torch.randn(3, 6, 2, dtype=torch.float64).unbind()
    logits, x = torch.randn(6, 1, 4, 5, dtype=torch.float64), torch.rand(6, 1, 4, 5, dtype=torch.float64)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(z).sum(1)
    likelihood = (x * logits.sigmoid().log() + (1 - x) * (1 - logits.sigmoid()).log()).flatten(1).sum(1)
    weight = log_importance_weight(logits, x, z, mean, log_variance)
    torch.testing.assert_close(weight, likelihood + prior - posterior)


def test_importance_weights_are_the_elbo_on_average() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.tensor([[0.5, -1.0]]), torch.tensor([[-1.0, 0.3]])
    logits, x = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    z = mean + torch.randn(200_000, 2) * (log_variance / 2).exp()
    weights = log_importance_weight(logits, x, z, mean, log_variance)
    assert weights.mean().item() == pytest.approx(vae.elbo(logits, x, mean, log_variance).item(), abs=0.02)
