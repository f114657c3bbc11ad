"""Latents of training images, from which a checkpoint tells how isolated others are."""

from __future__ import annotations

import torch
from tqdm import tqdm

from training.data.dataset import Dataset
from training.metrics.elbo import latent_means
from training.metrics.posterior import BATCH
from vae import VAE, References
from vae.outliers import reference_count


def collect_references(model: VAE, train: Dataset, *, progress: bool = False) -> References:
    """Encode training images, evenly spaced over the set, as the references of outlier factors.

    They are at most as many as `vae.outliers` allows. Images that are mapped from a file are read in batches.
    """
    count = reference_count(len(train), model.config)
    indices = (torch.arange(count) * len(train) // count).split(BATCH)
    batches = tqdm(indices, desc="references", unit="batch", leave=False, disable=not progress)
    return References.of(torch.cat([latent_means(model, train.take(each)) for each in batches]).numpy())
