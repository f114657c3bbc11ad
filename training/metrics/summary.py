"""All figures of a model, on a test set and on what it was trained on, under the names that a checkpoint keeps."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from training.data.dataset import Dataset
from training.metrics.budget import Budget
from training.metrics.elbo import DRAWS, SEED, evaluate, squared_error
from training.metrics.importance import importance_weighted_bound
from training.metrics.neighbours import neighbour_accuracy
from training.metrics.posterior import Posterior
from vae import VAE, LatentSet

TRAIN_LIMIT = 60_000
"""Of a larger training set the first images are measured: neighbours are sought by comparing all with all."""
BOUND_LIMIT = 10_000
"""Of either set the first images are taken for the bound on log p(x): it takes minutes for so many."""
LEAST = 100
"""Images of either set that are measured however little time there is."""
BOUND_LEAST = 1000
"""Images below which the bound is left out, unless they are all: over fewer, their spread hides what it would show."""


def measure(
    model: VAE,
    train: Dataset,
    test: Dataset,
    *,
    importance_samples: int,
    seconds: float = math.inf,
    progress: bool = False,
) -> dict[str, float]:
    """`test_…` and `train_…`: averages over images, losses in nats per image; what has no value is left out.

    The bound on log p(x) is computed with `importance_samples` (K) for each of BOUND_LIMIT images; 0 leaves it out.

    Where `seconds` are too few for all images, as many are measured as there is time for, at equal distances in their
    set. Left out are nearest neighbours that cannot be sought for all of those, and a bound on fewer than BOUND_LEAST
    images. `…_images` is how many were measured, `…_bound_images` how many the bound is a mean over.
    """
    budget = Budget(seconds)
    train, _ = train.hold_out(max(0, len(train) - TRAIN_LIMIT))
    test_metrics, test_latents = _losses(model, test, budget, share=2 / 5, progress=progress)
    train_metrics, train_latents = _losses(model, train, budget, share=1 / 2, progress=progress)
    test_metrics |= _neighbours(test_latents, train_latents, budget, progress=progress)
    train_metrics |= _neighbours(train_latents, None, budget, progress=progress)
    if importance_samples:
        test_metrics |= _bound(model, test, importance_samples, budget, progress=progress)
        train_metrics |= _bound(model, train, importance_samples, budget, progress=progress)
    metrics = {
        f"{part}_{name}": value
        for part, own in (("train", train_metrics), ("test", test_metrics))
        for name, value in own.items()
    }
    if "test_bound_images" in metrics:
        metrics["importance_samples"] = importance_samples
    return metrics


def _losses(
    model: VAE, dataset: Dataset, budget: Budget, share: float, *, progress: bool
) -> tuple[dict[str, float], LatentSet]:
    def losses(some: Dataset, *, progress: bool = False) -> tuple[dict[str, float], LatentSet]:
        posterior = Posterior.of(model, some.images)
        metrics: dict[str, float] = {"images": len(some)}
        metrics |= evaluate(model, some.images, draws=DRAWS, seed=SEED, progress=progress).as_dict()
        for dimension, nats in enumerate(posterior.kl_per_dimension().tolist(), 1):
            metrics[f"kl_divergence_{dimension}"] = nats
        metrics["active_units"] = posterior.active_units()
        metrics["squared_error"] = squared_error(model, some.images)
        return metrics, LatentSet(posterior.mean, some.labels.cpu())

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


def _bound(model: VAE, dataset: Dataset, samples: int, budget: Budget, *, progress: bool) -> dict[str, float]:
    def bound(some: Dataset, *, progress: bool = False) -> float:
        return importance_weighted_bound(model, some.images, samples, SEED, progress=progress).mean().item()

    most, _ = dataset.hold_out(max(0, len(dataset) - BOUND_LIMIT))
    count = budget.images(lambda count: bound(_spread(most, count)), len(most), share=3 / 4)
    if count < min(BOUND_LEAST, len(most)):
        return {}
    value = bound(_spread(most, count), progress=progress)
    return {"neg_importance_weighted_bound": -value, "bound_images": count}


def _spread(dataset: Dataset, count: int) -> Dataset:
    """`count` of the images, at equal distances: one end of a set can be easier than the other, as in MNIST's."""
    if count == len(dataset):
        return dataset
    chosen = torch.arange(count) * len(dataset) // count
    return replace(dataset, images=dataset.images[chosen], labels=dataset.labels[chosen])
