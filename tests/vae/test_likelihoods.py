"""Each likelihood against its integral, torch.distributions and its own derivative."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, distributions

import vae
from vae.config import LOG_SCALE_BOUNDS, Likelihood, Scale, VAEConfig
from vae.likelihoods import SERIES_BELOW, Bernoulli, ContinuousBernoulli, new_likelihood
from vae.likelihoods import Likelihood as Distribution

KINDS: list[tuple[Likelihood, Scale]] = [
    ("bernoulli", "model"),
    ("continuous-bernoulli", "model"),
    ("gaussian", "model"),
    ("gaussian", "pixel"),
    ("logistic", "model"),
    ("logistic", "pixel"),
]
LOGITS = (-300.0, -20.0, -2.0, -SERIES_BELOW, -0.1, -1e-3, 0.0, 1e-6, 0.02, SERIES_BELOW, 1.0, 30.0, 300.0)
LOG_SCALES = (-30.0, -5.0, -2.0, 0.0, 30.0)


def config_of(name: Likelihood, scale: Scale = "model", values: int = 1) -> VAEConfig:
    return VAEConfig(image_shape=(1, 1, values), likelihood=name, scale=scale)


def scaled(name: Likelihood, scale: Scale, location: float, log_scale: float, x: Tensor) -> tuple[Distribution, Tensor]:
    """The likelihood, and the decoder's output of this location and log-scale for each value of `x`, (1, C, 1, W)."""
    likelihood = new_likelihood(config_of(name, scale, x.numel())).double()
    output = torch.full_like(x, location)
    if scale == "pixel":
        return likelihood, torch.cat([output, torch.full_like(x, log_scale)], 1)
    likelihood.get_parameter("log_scale").data.fill_(log_scale)
    return likelihood, output


def bounded(name: Likelihood, log_scale: float) -> float:
    lower, upper = LOG_SCALE_BOUNDS[name]
    below = upper - np.logaddexp(0, upper - log_scale)
    return float(lower + np.logaddexp(0, below - lower))


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


@pytest.mark.parametrize("logit", LOGITS)
def test_the_continuous_bernoulli_is_a_density(logit: float) -> None:
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64).view(1, 1, 1, -1)
    density = torch.exp(-ContinuousBernoulli().pixel_losses(torch.full_like(x, logit), x)).flatten()
    assert torch.trapezoid(density, x.flatten()).item() == pytest.approx(1, abs=1e-6)
    mean = torch.trapezoid(density * x.flatten(), x.flatten()).item()
    assert ContinuousBernoulli().to_image_(row(logit)).item() == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("scale", get_args(Scale))
@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_the_gaussian_is_a_density(scale: Scale, log_scale: float) -> None:
    x = torch.linspace(-12, 13, 2_000_001, dtype=torch.float64).view(1, 1, 1, -1)
    likelihood, output = scaled("gaussian", scale, 0.4, log_scale, x)
    density = torch.exp(-likelihood.pixel_losses(output, x)).flatten()
    assert torch.trapezoid(density, x.flatten()).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("scale", get_args(Scale))
@pytest.mark.parametrize("log_scale", LOG_SCALES)
@pytest.mark.parametrize("location", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_the_probabilities_of_all_levels_add_up_to_one(location: float, scale: Scale, log_scale: float) -> None:
    levels = torch.arange(256, dtype=torch.float64).view(1, 1, 1, -1) / 255
    likelihood, output = scaled("logistic", scale, location, log_scale, levels)
    probabilities = torch.exp(-likelihood.pixel_losses(output, levels)).flatten()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-9)
    edges = (torch.arange(257, dtype=torch.float64) - 0.5) / 255
    edges[0], edges[-1] = -math.inf, math.inf
    cdf = torch.sigmoid((edges - location) / math.exp(bounded("logistic", log_scale)))
    torch.testing.assert_close(probabilities, cdf.diff(), rtol=1e-5, atol=1e-12)


def test_a_value_between_two_levels_has_the_probability_of_the_nearer_one() -> None:
    x = row(0.4 / 255, 0.6 / 255, 1.3 / 255, 254.4 / 255)
    likelihood, output = scaled("logistic", "model", 0.01, -4.0, x)
    nearest = row(0, 1 / 255, 1 / 255, 254 / 255)
    assert likelihood.pixel_losses(output, x).equal(likelihood.pixel_losses(output, nearest))


def test_bernoulli_losses_are_torchs() -> None:
    output, x = row(*LOGITS), row(*(index % 2 for index in range(len(LOGITS))))
    expected = -distributions.Bernoulli(logits=output).log_prob(x)
    torch.testing.assert_close(Bernoulli().pixel_losses(output, x), expected)
    torch.testing.assert_close(Bernoulli().to_image_(output.clone()), torch.sigmoid(output))


def test_continuous_bernoulli_losses_are_torchs() -> None:
    output = row(*(logit for logit in LOGITS if 0.1 <= abs(logit) <= 20))  # beyond, torch's own are imprecise
    x = torch.linspace(0, 1, output.numel(), dtype=torch.float64).view_as(output)
    theirs = distributions.ContinuousBernoulli(logits=output, lims=(0.5, 0.5))
    torch.testing.assert_close(ContinuousBernoulli().pixel_losses(output, x), -theirs.log_prob(x))
    torch.testing.assert_close(ContinuousBernoulli().to_image_(output.clone()), theirs.mean)


@pytest.mark.parametrize("scale", get_args(Scale))
@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_gaussian_losses_are_torchs(scale: Scale, log_scale: float) -> None:
    x = row(0, 0.2, 0.7, 1)
    likelihood, output = scaled("gaussian", scale, 0.6, log_scale, x)
    expected = -distributions.Normal(row(0.6), math.exp(bounded("gaussian", log_scale))).log_prob(x)
    torch.testing.assert_close(likelihood.pixel_losses(output, x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("likelihood", [Bernoulli(), ContinuousBernoulli()])
def test_the_gradient_of_the_loss_is_image_minus_target(likelihood: Distribution, dtype: torch.dtype) -> None:
    """As for any exponential family; it shows cancellation near λ = ½."""
    small = torch.logspace(-8, 1, 400)
    output = torch.cat([-small.flip(0), torch.zeros(1), small]).to(dtype).view(1, 1, 1, -1).requires_grad_()
    likelihood.pixel_losses(output, torch.full_like(output, 0.25)).sum().backward()
    assert output.grad is not None
    image = likelihood.to_image_(output.detach().clone())
    torch.testing.assert_close(output.grad, image - 0.25, atol=2e-6, rtol=0)
    assert (image.diff() >= -1e-6).all()


@pytest.mark.parametrize(("name", "scale"), KINDS)
def test_losses_and_gradients_are_finite_at_extremes(name: Likelihood, scale: Scale) -> None:
    extremes = torch.tensor([-1e4, -100.0, -1.0, 0.0, 1e-30, 1.0, 100.0, 1e4])
    location, log_scale, x = torch.cartesian_prod(extremes, extremes, torch.tensor([0.0, 0.5, 1.0])).unbind(1)
    likelihood = new_likelihood(config_of(name, scale, len(x)))
    output = torch.stack([location, log_scale] if scale == "pixel" else [location]).view(1, -1, 1, len(x))
    output.requires_grad_()
    for value in extremes if name in LOG_SCALE_BOUNDS and scale == "model" else extremes[:1]:
        for parameter in likelihood.parameters():
            parameter.data.fill_(value)
        losses = likelihood.pixel_losses(output, x.view(1, 1, 1, -1))
        losses.sum().backward()
        tensors = [losses, *(each.grad for each in (output, *likelihood.parameters()))]
        assert all(tensor is not None and tensor.isfinite().all() for tensor in tensors)
    image = likelihood.to_image_(output.detach().clone())
    assert image.shape == (1, 1, 1, len(x))
    assert 0 <= image.min() <= image.max() <= 1


@pytest.mark.parametrize(("name", "scale"), KINDS)
def test_the_initial_bias_gives_the_mean_image(name: Likelihood, scale: Scale) -> None:
    image = torch.tensor([0.01, 0.2, 0.499, 0.5, 0.7, 0.99])
    config = config_of(name, scale, len(image))
    likelihood = new_likelihood(config)
    bias = torch.zeros(math.prod(config.output_shape))
    likelihood.initialize_(bias, image, 0.3)
    decoded = likelihood.to_image_(bias.clone().view(1, *config.output_shape))
    torch.testing.assert_close(decoded.flatten(), image, atol=1e-4, rtol=0)
    if name in LOG_SCALE_BOUNDS:
        log_scale = bias[len(image) :] if scale == "pixel" else likelihood.get_parameter("log_scale")
        torch.testing.assert_close(log_scale.detach(), torch.full_like(log_scale, math.log(0.3)))
    likelihood.initialize_(bias, torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]), 0.0)
    assert bias.isfinite().all()


@pytest.mark.parametrize(("name", "scale"), KINDS)
def test_the_models_losses_are_sums_of_its_likelihoods(name: Likelihood, scale: Scale) -> None:
    torch.manual_seed(0)
    model = vae.VAE(VAEConfig("conv", (3, 5, 7), hidden_dim=8, likelihood=name, scale=scale))
    x = torch.rand(4, 3, 5, 7)
    decoded, mean, log_variance = model(x, torch.Generator().manual_seed(0))
    assert decoded.shape == (4, *model.config.output_shape)
    loss = model.reconstruction_loss(decoded, x)
    torch.testing.assert_close(loss, model.likelihood.pixel_losses(decoded, x).sum((1, 2, 3)))
    bound = vae.elbo(decoded, x, mean, log_variance, model.likelihood)
    torch.testing.assert_close(bound, -(loss + vae.kl_divergence(mean, log_variance)))
    if (name, scale) != ("bernoulli", "model"):
        assert not torch.allclose(bound, vae.elbo(decoded[:, :3], x, mean, log_variance))
    loss.sum().backward()
    assert all(each.grad is not None for each in (*model.decoder.parameters(), *model.likelihood.parameters()))


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"likelihood": "poisson"}, "one of: bernoulli, continuous-bernoulli, gaussian, logistic"),
        ({"scale": "channel"}, "one of: model, pixel"),
        ({"likelihood": "continuous-bernoulli", "scale": "pixel"}, "has no scale: leave it at 'model'"),
    ],
)
def test_a_likelihood_that_does_not_exist_is_an_error(fields: dict[str, str], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        VAEConfig(**fields)  # type: ignore[arg-type]
