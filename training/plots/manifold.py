"""Plot the decoder's manifold over the prior, as in figure 4 of Kingma & Welling (2014)."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from vae import VAE

SIDE = 21
"""Images per side of the grid; odd, so that the grid contains the mean of the prior."""
DIMENSIONS = 4
"""Most latent dimensions that are drawn, those with the largest KL divergence: six pairs at most."""


def quantiles(side: int) -> Tensor:
    """Return `side` equally likely values of N(0, 1): the inverse CDF at the centres of equal parts of (0, 1)."""
    parts = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    values: Tensor = torch.special.ndtri(parts)
    return values


def pairs_to_draw(kl_per_dimension: Tensor) -> list[tuple[int, ...]]:
    """Return all pairs of the DIMENSIONS dimensions with the largest KL divergence; a single dimension as a 1-tuple."""
    largest = kl_per_dimension.topk(min(DIMENSIONS, len(kl_per_dimension))).indices
    return list(combinations(sorted(largest.tolist()), min(2, len(largest))))


def manifold(model: VAE, pair: tuple[int, ...], side: int = SIDE) -> Figure:
    """Plot images decoded from a grid of quantiles over the dimensions of `pair` (one or two), all others 0.

    For latents that are vectors, not maps.

    The first dimension increases to the right, the second upwards.
    """
    values = quantiles(side).float()
    down = values.flip(0) if len(pair) == 2 else torch.zeros(1)
    z = torch.zeros(len(down), side, model.config.latent_dim)
    if len(pair) == 2:
        z[..., pair[1]] = down.unsqueeze(1)
    z[..., pair[0]] = values
    with torch.inference_mode():
        decoded = model.to_image_(model.decode(z.flatten(0, 1)))
    _, height, width = model.config.image_shape
    picture = make_grid(decoded, nrow=side, padding=0).permute(1, 2, 0).numpy()  # always three channels

    inches = 6 / max(side * width, len(down) * height)
    figure = Figure(figsize=(side * width * inches + 0.6, len(down) * height * inches + 0.6))
    plot = figure.subplots()
    plot.imshow(picture, extent=(0, side * width, 0, len(down) * height))
    shown = np.linspace(0, side - 1, 5).round().astype(int)
    names = [f"{values[i]:.2f}".replace("-", "−") for i in shown]
    plot.set_xticks((shown + 0.5) * width, names)
    plot.set_xlabel(f"z{pair[0] + 1}")
    plot.set_yticks([])
    if len(pair) == 2:
        plot.set_yticks((shown + 0.5) * height, names)
        plot.set_ylabel(f"z{pair[1] + 1}")
    return figure
