"""All metrics of a model on its test and training sets, under the names that a checkpoint keeps."""

from __future__ import annotations

import math
from dataclasses import replace
from math import prod

import torch

from training.data.dataset import Dataset
from training.metrics.budget import Budget
from training.metrics.elbo import evaluate, squared_error
from training.metrics.importance import importance_weighted_bound
from training.metrics.neighbours import neighbour_accuracy
from training.metrics.posterior import Posterior
from vae import VAE, LatentSet
from vae.noise import DRAWS, SEED

TRAIN_LIMIT = 60_000
"""Training images that are measured at most, because the nearest neighbours take time quadratic in them."""
BOUND_LIMIT = 10_000
"""Images of either set that the bound on log p(x) uses at most; so many take minutes."""
LEAST = 100
"""Images of either set that are measured even if the time is up."""
BOUND_LEAST = 1000
"""Fewest images for a bound that is worth its noise, unless the set has fewer."""


def measure(
    model: VAE,
    train: Dataset,
    test: Dataset,
    *,
    importance_samples: int,
    seed: int = SEED,
    seconds: float = math.inf,
    progress: bool = False,
) -> dict[str, float]:
    """Measure a model.

    Args:
        model: The model.
        train: Its training images; at most TRAIN_LIMIT are used.
        test: Its test images.
        importance_samples: K of the bound on log p(x), for at most BOUND_LIMIT images; 0 leaves the bound out.
        seed: Of the noise of all posterior samples.
        seconds: Time budget. If it is too short for all images, evenly spaced ones are measured; nearest neighbours
            are left out unless there is time for all measured images, and the bound below BOUND_LEAST images.
        progress: Whether to show progress bars.

    Returns:
        Metrics named `test_…` and `train_…`: means over images, losses in nats per image. `…_images` counts the images
        measured, `…_bound_images` those of the bound. Metrics without a value are left out. `…_kl_divergence_1` is that
        of the first dimension of a vector, or of the first channel of a map; maps have `latent_positions`, h·w.

    """
    budget = Budget(seconds)
    train, _ = train.hold_out(max(0, len(train) - TRAIN_LIMIT))
    test_metrics, test_latents = _losses(model, test, seed, budget, share=2 / 5, progress=progress)
    train_metrics, train_latents = _losses(model, train, seed, budget, share=1 / 2, progress=progress)
    test_metrics |= _neighbours(test_latents, train_latents, budget, progress=progress)
    train_metrics |= _neighbours(train_latents, None, budget, progress=progress)
    if importance_samples:
        test_metrics |= _bound(model, test, importance_samples, seed, budget, progress=progress)
        train_metrics |= _bound(model, train, importance_samples, seed, budget, progress=progress)
    metrics = {
        f"{part}_{name}": value
        for part, own in (("train", train_metrics), ("test", test_metrics))
        for name, value in own.items()
    }
    if latent_map := model.config.latent_map:
        metrics["latent_positions"] = prod(latent_map[1:])
    if "test_bound_images" in metrics:
        metrics["importance_samples"] = importance_samples
    return metrics


def _losses(
    model: VAE, dataset: Dataset, seed: int, budget: Budget, share: float, *, progress: bool
) -> tuple[dict[str, float], LatentSet]:
    def losses(some: Dataset, *, progress: bool = False) -> tuple[dict[str, float], LatentSet]:
        posterior = Posterior.of(model, some.images)
        metrics: dict[str, float] = {"images": len(some)}
        metrics |= evaluate(model, some.images, draws=DRAWS, seed=seed, progress=progress).as_dict()
        if model.config.likelihood == "logistic":
            metrics["bits_per_dim"] = metrics["neg_elbo"] / (model.config.pixels * math.log(2))
        channels = posterior.kl_per_dimension().view(model.config.latent_shape[0], -1).sum(1)
        for dimension, nats in enumerate(channels.tolist(), 1):
            metrics[f"kl_divergence_{dimension}"] = nats
        metrics["active_units"] = posterior.active_units()
        metrics["squared_error"] = squared_error(model, some.images)
        return metrics, LatentSet(posterior.mean.numpy(), some.labels.cpu().numpy())

    count = budget.images(lambda count: losses(_spread(dataset, count)), len(dataset), share)
    return losses(_spread(dataset, max(count, min(LEAST, len(dataset)))), progress=progress)


def _neighbours(
    queries: LatentSet, references: LatentSet | None, budget: Budget, *, progress: bool
) -> dict[str, float]:
    def of_first(count: int) -> float | None:
        first = LatentSet(queries.mean[:count], queries.label[:count])
        return neighbour_accuracy(first, queries if references is None else references)

    if budget.images(of_first, len(queries.label), share=1 / 4) < len(queries.label):
        return {}
    accuracy = neighbour_accuracy(queries, references, progress=progress)
    return {} if accuracy is None else {"neighbour_accuracy": accuracy}


def _bound(
    model: VAE, dataset: Dataset, samples: int, seed: int, budget: Budget, *, progress: bool
) -> dict[str, float]:
    def bound(some: Dataset, *, progress: bool = False) -> float:
        return importance_weighted_bound(model, some.images, samples, seed, progress=progress).mean().item()

    most, _ = dataset.hold_out(max(0, len(dataset) - BOUND_LIMIT))
    count = budget.images(lambda count: bound(_spread(most, count)), len(most), share=3 / 4)
    if count < min(BOUND_LEAST, len(most)):
        return {}
    value = bound(_spread(most, count), progress=progress)
    return {"neg_importance_weighted_bound": -value, "bound_images": count}


def _spread(dataset: Dataset, count: int) -> Dataset:
    """Return `count` evenly spaced images: the two ends of a set can differ in difficulty, as in MNIST."""
    if count == len(dataset):
        return dataset
    chosen = torch.arange(count) * len(dataset) // count
    return replace(dataset, images=dataset.images[chosen], labels=dataset.labels[chosen])
