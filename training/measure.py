"""All figures of a model, on a test set and on what it was trained on, under the names that a checkpoint keeps."""

from __future__ import annotations

from training.data import Dataset
from training.evaluate import DRAWS, SEED, evaluate, squared_error
from training.importance import importance_weighted_bound
from training.neighbours import neighbour_accuracy
from training.posterior import Posterior
from vae import VAE, LatentSet

TRAIN_LIMIT = 60_000
"""Of a larger training set the first images are measured: neighbours are sought by comparing all with all."""
BOUND_LIMIT = 10_000
"""Of either set the first images are taken for the bound on log p(x): it takes minutes for so many."""


def measure(
    model: VAE, train: Dataset, test: Dataset, *, importance_samples: int, progress: bool = False
) -> dict[str, float]:
    """`test_…` and `train_…`: averages over images, losses in nats per image; what has no value is left out.

    The bound on log p(x) is computed with `importance_samples` (K) for each of BOUND_LIMIT images; 0 leaves it out.
    """
    train, _ = train.hold_out(max(0, len(train) - TRAIN_LIMIT))
    figures: dict[str, float] = {}
    references: LatentSet | None = None
    for part, dataset in (("train", train), ("test", test)):
        posterior = Posterior.of(model, dataset.images)
        latents = LatentSet(posterior.mean, dataset.labels.cpu())
        losses = evaluate(model, dataset.images, draws=DRAWS, seed=SEED, progress=progress)
        own: dict[str, float | None] = {"images": len(dataset), **losses.as_dict()}
        for dimension, nats in enumerate(posterior.kl_per_dimension().tolist(), 1):
            own[f"kl_divergence_{dimension}"] = nats
        own["active_units"] = posterior.active_units()
        own["squared_error"] = squared_error(model, dataset.images)
        own["neighbour_accuracy"] = neighbour_accuracy(latents, references, progress=progress)
        if importance_samples:
            some = dataset.images[:BOUND_LIMIT]
            bound = importance_weighted_bound(model, some, importance_samples, SEED, progress=progress)
            own["neg_importance_weighted_bound"] = -bound.mean().item()
        figures |= {f"{part}_{name}": value for name, value in own.items() if value is not None}
        references = latents
    if importance_samples:
        figures["importance_samples"] = importance_samples
    return figures
