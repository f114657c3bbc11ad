"""Each metric against its formula in float64."""

import math

import numpy as np
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss

import vae
from training.data.dataset import NO_LABEL, Dataset, to_pixels
from training.metrics.importance import importance_weighted_bound
from training.metrics.neighbours import NEIGHBOURS, neighbour_accuracy
from training.metrics.posterior import Posterior
from training.metrics.report import as_markdown
from training.metrics.summary import measure
from vae.noise import DRAWS, SEED, image_noise
from vae.objective import log_importance_weight


@pytest.fixture(scope="module")
def model() -> vae.VAE:
    torch.manual_seed(1)
    return vae.VAE(vae.VAEConfig(image_shape=(1, 2, 3), hidden_dim=6, latent_dim=2)).requires_grad_(False).eval()


@pytest.fixture(params=[("continuous-bernoulli", "model"), ("gaussian", "pixel"), ("logistic", "model")])
def other_model(request: pytest.FixtureRequest) -> vae.VAE:
    """A model of another likelihood."""
    torch.manual_seed(1)
    name, scale = request.param
    config = vae.VAEConfig(image_shape=(1, 2, 3), hidden_dim=6, latent_dim=2, likelihood=name, scale=scale)
    return vae.VAE(config).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (7, 1, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_active_units_are_those_whose_mean_varies_by_more_than_a_hundredth() -> None:
    spread = torch.tensor([0.0, 0.09, 0.11, 3.0])  # of two values at ±spread the variance is spread²
    mean = torch.cat([spread.expand(50, 4), -spread.expand(50, 4)]) + 5
    assert Posterior(mean, torch.zeros(100, 4)).active_units() == 2


def test_the_divergence_of_each_dimension_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(30, 3, generator=generator), torch.randn(30, 3, generator=generator)
    m, v = mean.double().numpy(), np.exp(log_variance.double().numpy())
    expected = (0.5 * (m**2 + v - np.log(v) - 1)).mean(0)
    posterior = Posterior(mean, log_variance)
    assert np.allclose(posterior.kl_per_dimension(), expected)
    whole = vae.kl_divergence(mean, log_variance).mean().item()
    assert posterior.kl_per_dimension().sum().item() == pytest.approx(whole, rel=1e-5)


def test_neighbours_are_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(500, 3)).astype(np.float32), rng.integers(0, 4, 500)
    points[:, 0] += labels + 100  # far from 0, where careless distances lose their digits
    points[:40], labels[:40] = points[40:80], labels[40:80]  # at distance 0, yet not the same image

    def accuracy(queries: slice, references: slice, *, alone: bool) -> float:
        right = 0
        for i in range(*queries.indices(500)):
            distance = np.linalg.norm(points[references].astype(np.float64) - points[i], axis=1)
            if alone:
                distance[i - references.start] = np.inf
            votes = np.bincount(labels[references][np.argsort(distance)[:NEIGHBOURS]], minlength=4)
            right += int(votes.argmax() == labels[i])
        return right / len(range(*queries.indices(500)))

    def latents(part: slice) -> vae.LatentSet:
        return vae.LatentSet(points[part], labels[part])

    train, test = slice(0, 400), slice(400, 500)
    assert neighbour_accuracy(latents(train)) == accuracy(train, train, alone=True)
    assert neighbour_accuracy(latents(test), latents(train)) == accuracy(test, train, alone=False)


def test_many_queries_are_taken_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = vae.LatentSet(np.random.default_rng(0).random((60, 2), np.float32), np.arange(60) % 3)
    whole = neighbour_accuracy(latents)
    monkeypatch.setattr("training.metrics.neighbours.DISTANCES", 7 * 60)
    assert neighbour_accuracy(latents) == whole


def test_images_without_labels_have_no_accuracy() -> None:
    mean = np.random.default_rng(0).random((30, 2), np.float32)
    none = vae.LatentSet(mean, np.full(30, NO_LABEL))
    some = vae.LatentSet(mean, np.arange(30) % 2)
    assert neighbour_accuracy(none) is None
    assert neighbour_accuracy(none, some) is None
    assert neighbour_accuracy(some, none) is None
    half = vae.LatentSet(mean, np.where(np.arange(30) < 15, np.arange(30) % 2, NO_LABEL))
    assert neighbour_accuracy(half) == neighbour_accuracy(vae.LatentSet(half.mean[:15], half.label[:15]))


@pytest.mark.parametrize("samples", [1, 30, 2500])
def test_the_bound_is_the_mean_weight_of_its_samples(model: vae.VAE, pictures: torch.Tensor, samples: int) -> None:
    noise = torch.from_numpy(image_noise(pictures.numpy(), samples, (2,), 4))
    double = vae.VAE(model.config).double().requires_grad_(False)
    double.load_state_dict(model.state_dict())
    for image, own_noise, bound in zip(
        to_pixels(pictures).double(),
        noise.double(),
        importance_weighted_bound(model, pictures, samples, 4),
        strict=True,
    ):
        x = image.expand(samples, -1, -1, -1)
        mean, log_variance = double.encode(x)
        z = mean + own_noise * torch.exp(log_variance / 2)
        weights = log_importance_weight(double.decode(z), x, z, mean, log_variance)
        assert bound.item() == pytest.approx(weights.logsumexp(0).item() - math.log(samples), abs=1e-5)


def test_the_bound_is_that_of_the_models_likelihood(other_model: vae.VAE, pictures: torch.Tensor) -> None:
    noise = torch.from_numpy(image_noise(pictures.numpy(), 20, (2,), 4))
    bounds = importance_weighted_bound(other_model, pictures, 20, 4)
    for image, own_noise, bound in zip(to_pixels(pictures), noise, bounds, strict=True):
        x = image.expand(20, -1, -1, -1)
        mean, log_variance = other_model.encode(x)
        z = mean + own_noise * torch.exp(log_variance / 2)
        decoded = other_model.decode(z)
        weights = log_importance_weight(decoded, x, z, mean, log_variance, other_model.likelihood).double()
        assert bound.item() == pytest.approx(weights.logsumexp(0).item() - math.log(20), abs=1e-4)


def test_metrics_are_those_of_the_models_likelihood(other_model: vae.VAE, pictures: torch.Tensor) -> None:
    dataset = Dataset("noise", pictures, torch.arange(7))
    metrics = measure(other_model, dataset, dataset, importance_samples=0)
    x = to_pixels(pictures)
    mean, log_variance = other_model.encode(x)
    noise = torch.from_numpy(image_noise(pictures.numpy(), DRAWS, (2,), SEED))
    z = [mean + each * torch.exp(log_variance / 2) for each in noise.unbind(1)]
    loss = torch.stack([other_model.reconstruction_loss(other_model.decode(each), x) for each in z]).mean().item()
    assert metrics["test_reconstruction_loss"] == pytest.approx(loss, rel=1e-5)
    image = other_model.to_image_(other_model.decode(mean))
    assert metrics["test_squared_error"] == pytest.approx((image - x).square().mean().item(), rel=1e-5)
    bits = {name: value for name, value in metrics.items() if name.endswith("bits_per_dim")}
    if other_model.config.likelihood != "logistic":
        assert not bits
        return
    assert bits == {
        f"{part}_bits_per_dim": metrics[f"{part}_neg_elbo"] / (6 * math.log(2)) for part in ("train", "test")
    }
    assert f"{bits['test_bits_per_dim']:.3f} | {bits['train_bits_per_dim']:.3f} | bits/dim |" in as_markdown(metrics)


def test_the_bound_approximates_log_p_of_x_that_can_be_integrated(model: vae.VAE, pictures: torch.Tensor) -> None:
    nodes, weights = hermegauss(40)  # ∫ f(z) N(z; 0, 1) dz = Σ w f(node) / √2π
    z = torch.cartesian_prod(torch.tensor(nodes), torch.tensor(nodes)).float()
    log_weight = torch.tensor(np.log(np.outer(weights, weights).ravel() / (2 * math.pi)))
    logits = model.decode(z)
    exact = torch.stack(
        [(log_weight - vae.reconstruction_loss(logits, x.expand_as(logits))).logsumexp(0) for x in to_pixels(pictures)]
    )
    bound = importance_weighted_bound(model, pictures, 50_000, 0)  # with a standard error of 0.004
    assert torch.allclose(bound, exact, atol=0.02)
    one = importance_weighted_bound(model, pictures.repeat(500, 1, 1, 1), 1, 0).mean()
    assert one < bound.mean() - 0.01  # one sample's bound is the ELBO


def test_colour_images_may_lie_in_memory_with_their_channels_last() -> None:
    torch.manual_seed(0)
    model = vae.VAE(vae.VAEConfig(image_shape=(3, 4, 5), hidden_dim=4, latent_dim=2)).requires_grad_(False)
    images = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8)
    first, last = (
        measure(
            model,
            Dataset("noise", each, torch.arange(6)),
            Dataset("noise", each, torch.arange(6)),
            importance_samples=9,
        )
        for each in (images, images.to(memory_format=torch.channels_last))
    )
    assert first == pytest.approx(last)


def test_test_images_are_classified_by_the_training_images(model: vae.VAE, pictures: torch.Tensor) -> None:
    train = Dataset("noise", pictures.repeat(2, 1, 1, 1), torch.zeros(14, dtype=torch.int64))
    test = Dataset("noise", pictures, torch.tensor([0, 0, 1, 1, 1, 1, 1]))  # of class 1 the training set has none
    figures = measure(model, train, test, importance_samples=0)
    assert (figures["train_neighbour_accuracy"], figures["test_neighbour_accuracy"]) == (1, 2 / 7)


def test_metrics_without_a_value_are_omitted(model: vae.VAE, pictures: torch.Tensor) -> None:
    unlabelled = Dataset("noise", pictures, torch.full((7,), NO_LABEL))
    figures = measure(model, unlabelled, unlabelled, importance_samples=0)
    names = ["images", "neg_elbo", "reconstruction_loss", "kl_divergence", "kl_divergence_1", "kl_divergence_2"]
    names += ["active_units", "squared_error"]
    assert list(figures) == [f"{part}_{name}" for part in ("train", "test") for name in names]


def test_of_a_large_training_set_the_first_images_are_measured(
    model: vae.VAE, pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = Dataset("noise", pictures, torch.arange(7) % 2)
    first = Dataset("noise", pictures[:4], labelled.labels[:4])
    expected = measure(model, first, labelled, importance_samples=2)
    monkeypatch.setattr("training.metrics.summary.TRAIN_LIMIT", 4)
    assert measure(model, labelled, labelled, importance_samples=2) == expected
    assert expected["train_images"] == 4


def test_the_bound_is_that_of_the_first_images(
    model: vae.VAE, pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.metrics.summary.BOUND_LIMIT", 4)
    first, all_of_them = Dataset("noise", pictures[:4], torch.arange(4)), Dataset("noise", pictures, torch.arange(7))
    names = [f"{part}_neg_importance_weighted_bound" for part in ("train", "test")]
    expected, figures = (measure(model, each, each, importance_samples=2) for each in (first, all_of_them))
    assert [figures[name] for name in names] == [expected[name] for name in names]
    assert figures["test_images"] == 7
