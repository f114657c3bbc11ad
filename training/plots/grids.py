"""Plot grids of images: reconstructions, interpolations and samples of a model."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from training.data.dataset import Dataset, to_pixels
from vae import VAE

SHOWN = 10
"""Test images in a plot: one per class of MNIST."""


def examples(labels: Tensor, count: int = SHOWN) -> list[int]:
    """Return the indices of the first image of each class, then of the second of each, and so on, `count` at most."""
    members = [(labels == label).nonzero().flatten()[:count].tolist() for label in labels.unique()]
    in_turn = [each[turn] for turn in range(count) for each in members if turn < len(each)]
    return in_turn[:count]


def reconstructions(model: VAE, test: Dataset) -> Figure:
    """Plot test images, from as many classes as possible, above their reconstructions from the mean of q(z|x)."""
    x = to_pixels(test.images[examples(test.labels)])
    with torch.inference_mode():
        decoded = model.to_image_(model.decode(model.encode(x)[0]))
    figure, grid = _grid(2, len(x), x)
    for column, pair in enumerate(zip(x, decoded, strict=True)):
        for row, image in enumerate(pair):
            _show(grid[row][column], image)
    for row, name in enumerate(("test image", "reconstruction")):
        grid[row][0].text(-0.15, 0.5, name, ha="right", va="center", transform=grid[row][0].transAxes)
    return figure


def interpolations(model: VAE, test: Dataset, steps: int = 11) -> Figure:
    """Plot interpolations between pairs of test images, if possible of different classes.

    Each row has `steps` images decoded from z = (1 − t)·z₀ + t·z₁, where z₀ and z₁ are the means of q(z|x), between the
    two test images.
    """
    chosen = examples(test.labels)
    if len(chosen) == 1:
        chosen *= 2
    chosen = chosen[: len(chosen) // 2 * 2]
    x = to_pixels(test.images[chosen])
    figure, grid = _grid(len(x) // 2, steps + 4, x, ends=True)
    with torch.inference_mode():
        mean = model.encode(x)[0]
        for row, (start, end) in enumerate(zip(mean[::2], mean[1::2], strict=True)):
            line = torch.stack([torch.lerp(start, end, t) for t in torch.linspace(0, 1, steps)])
            decoded = model.to_image_(model.decode(line))
            for column, image in zip(range(2, steps + 2), decoded, strict=True):
                _show(grid[row][column], image)
            _show(grid[row][0], x[2 * row])
            _show(grid[row][-1], x[2 * row + 1])
    for column, name in (
        (0, "test\nimage"),
        (2, "$t = 0$"),
        (steps // 2 + 2, "$t = ½$"),
        (-3, "$t = 1$"),
        (-1, "test\nimage"),
    ):
        grid[0][column].set_title(name, fontsize=9)
    return figure


def unusual(model: VAE, test: Dataset, factors: Tensor, count: int = SHOWN) -> Figure:
    """Plot the `count` test images with the highest outlier `factors` (N,), the highest first.

    Below each are its reconstruction from the mean of q(z|x) and its loss per pixel, from the lowest of the image,
    black, to the highest, white.
    """
    chosen = factors.argsort(descending=True)[:count]
    x = to_pixels(test.images[chosen])
    with torch.inference_mode():
        decoded = model.decode(model.encode(x)[0])
        losses = model.pixel_losses(decoded, x)
        images = model.to_image_(decoded)
    lowest, highest = losses.amin((1, 2, 3), keepdim=True), losses.amax((1, 2, 3), keepdim=True)
    rows = {"test image": x, "reconstruction": images, "loss per pixel": (losses - lowest) / (highest - lowest)}
    figure, grid = _grid(len(rows), len(x), x)
    for panels, (name, pictures) in zip(grid, rows.items(), strict=True):
        for panel, picture in zip(panels, pictures, strict=True):
            _show(panel, picture)
        panels[0].text(-0.15, 0.5, name, ha="right", va="center", transform=panels[0].transAxes)
    for panel, factor in zip(grid[0], factors[chosen].tolist(), strict=True):
        panel.set_title(f"{factor:.1f}", fontsize=9)
    return figure


def samples(model: VAE, seed: int, side: int = 10) -> Figure:
    """Plot a grid of `side`×`side` images decoded from z ~ N(0, I)."""
    z = torch.randn(side * side, *model.config.latent_shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        decoded = model.to_image_(model.decode(z))
    picture = make_grid(decoded, nrow=side, padding=1, pad_value=1)
    figure, grid = _grid(1, 1, picture.unsqueeze(0), inches=0.5 * side)
    _show(grid[0][0], picture)
    return figure


def _grid(
    rows: int, columns: int, x: Tensor, *, inches: float = 0.7, ends: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """Create `rows`×`columns` panels of the aspect ratio of the images `x`; `ends` adds a gap at both outer columns.

    torchvision's make_grid joins all images into one, which cannot have row and column titles.
    """
    height, width = x.shape[2:]
    scale = inches / max(height, width)
    widths = [0.3 if ends and column in (1, columns - 2) else 1 for column in range(columns)]
    figure = Figure(figsize=(sum(widths) * width * scale * 1.06, rows * height * scale * 1.06))
    spacing = {"wspace": 0.06, "hspace": 0.06, "left": 0, "right": 1, "bottom": 0, "top": 1}
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=spacing, width_ratios=widths)
    for plot in grid.flat:
        plot.set_axis_off()
    return figure, grid.tolist()


def _show(plot: Axes, image: Tensor) -> None:
    channels_last = image.permute(1, 2, 0).numpy()
    plot.imshow(channels_last, cmap="gray", vmin=0, vmax=1)  # cmap applies to one channel only
