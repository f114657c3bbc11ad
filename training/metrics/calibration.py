"""The distribution of a score over validation images, by which a checkpoint tells which images are anomalous."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from tqdm import tqdm

from training.data.dataset import to_pixels
from training.metrics.posterior import BATCH
from vae import VAE, Calibration
from vae.calibration import score_of
from vae.noise import DRAWS, SEED

SCORE = "neg_elbo"
"""The score that is calibrated."""
BOUND_SAMPLES = 100
"""Importance samples per image where the score is the bound."""


def calibrate(model: VAE, images: Tensor, score: str = SCORE, *, progress: bool = False) -> Calibration:
    """Compute the quantiles of a score over uint8 `images` (N, C, H, W), N ≥ 1.

    `score` is one of `vae.calibration.SCORES`.
    """
    device = model.mean_layer.weight.device
    samples = BOUND_SAMPLES if score == "neg_importance_weighted_bound" else 0
    scores = []
    for batch in tqdm(images.split(BATCH), desc="calibrating", unit="batch", leave=False, disable=not progress):
        found = model.score(to_pixels(batch.to(device)), draws=DRAWS, samples=samples, seed=SEED)
        scores.append(score_of({name: values.cpu().numpy() for name, values in found.as_dict().items()}, score))
    return Calibration.of(np.concatenate(scores), score, draws=DRAWS, samples=samples, seed=SEED)
