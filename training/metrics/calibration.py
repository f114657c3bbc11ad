"""The distribution of a score over validation images, by which a checkpoint tells which images are anomalous."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.data.dataset import to_pixels
from training.metrics.posterior import BATCH
from vae import VAE, Calibration, References
from vae.calibration import FloatArray, score_of
from vae.noise import DRAWS, SEED

SCORE = "outlier_factor"
"""The score that is calibrated: of those that were compared it finds a left-out digit best, see docs/training.md."""
BOUND_SAMPLES = 100
"""Importance samples per image where the score is the bound."""


def calibrate(
    model: VAE,
    images: Tensor,
    score: str = SCORE,
    *,
    references: References | None = None,
    progress: bool = False,
) -> Calibration:
    """Compute the quantiles of a score over images.

    Args:
        model: The model.
        images: Validation images, uint8 (N, C, H, W), N ≥ 1.
        score: One of `vae.calibration.SCORES`.
        references: What outlier factors are computed from, such as those of
            `training.metrics.references.collect_references`; no other score needs them.
        progress: Whether to show a progress bar.

    Returns:
        The calibration.

    Raises:
        ValueError: The score is the outlier factor, and there are no references.

    """
    if score == "outlier_factor" and references is None:
        raise ValueError("Outlier factors are computed from references: give them, or another score.")
    samples = BOUND_SAMPLES if score == "neg_importance_weighted_bound" else 0
    batches = tqdm(images.split(BATCH), desc="calibrating", unit="batch", leave=False, disable=not progress)
    computed = [_compute(model, batch, score, samples, references) for batch in batches]
    scores, losses = (np.concatenate(each) for each in zip(*computed, strict=True))
    return Calibration.of(scores, losses, score, draws=DRAWS, samples=samples, seed=SEED)


@torch.inference_mode()
def _compute(
    model: VAE, images: Tensor, score: str, samples: int, references: References | None
) -> tuple[FloatArray, FloatArray]:
    """Return the score and the reconstruction loss of uint8 images (N, C, H, W), (N,) each."""
    x = to_pixels(images.to(model.mean_layer.weight.device))
    if score == "outlier_factor" and references:  # no draws are decoded
        mean, _ = model.encode(x)
        loss = model.reconstruction_loss(model.decode(mean), x)
        return references.outlier_factor(mean.cpu().numpy()), loss.cpu().numpy()
    found = model.score(x, draws=DRAWS, samples=samples, seed=SEED).as_dict()
    values = {name: each.cpu().numpy() for name, each in found.items()}
    return score_of(values, score), values["reconstruction_loss"]
