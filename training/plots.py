"""Pictures of a model: its latent space, test images with their reconstructions, and samples of the prior."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training.data import Dataset, to_pixels
from training.evaluate import latent_means
from vae import VAE

COLORS = [  # of the digits 0 to 9: matplotlib's tab10, told apart by most colour-blind people
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
]  # fmt: skip
DPI = 200


def draw_all(model: VAE, test: Dataset, out: Path, seed: int) -> list[Path]:
    """Write every picture into the folder `out`; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    written = [out / name for name in ("latent3d.html", "latents.png", "reconstructions.png", "samples.png")]
    with tqdm(total=len(written), unit="picture", leave=False) as bar:
        points, axes = project(latent_means(model, test.images))
        html = latent_scatter(points, axes, test.labels)
        # plotly.js goes into the file (4.5 MB, most of it), so that it opens without a network
        html.write_html(written[0], include_plotlyjs=True, default_height="96vh", config={"displaylogo": False})
        bar.update()
        for path, figure in (
            (written[1], latent_picture(points, axes, test.labels)),
            (written[2], reconstructions(model, test)),
            (written[3], samples(model, seed)),
        ):
            figure.savefig(path, dpi=DPI, bbox_inches="tight")
            bar.update()
    return written


def project(latents: Tensor) -> tuple[NDArray[np.float32], list[str]]:
    """Latents (N, D) → coordinates to plot, (N, 2) or (N, 3), and the names of their axes.

    Two and three dimensions stay as they are; of more, the first three principal components are taken.
    """
    dimensions = latents.shape[1]
    if dimensions == 1:  # a line has no second axis: the points are spread over one, by their order
        spread = torch.linspace(0, 1, len(latents)).unsqueeze(1)
        return torch.cat([latents, spread], 1).numpy(), ["z1", "order in the test set"]
    if dimensions <= 3:
        return latents.numpy(), [f"z{i + 1}" for i in range(dimensions)]
    centred = latents - latents.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    share = singular.square() / singular.square().sum()
    names = [f"principal component {i + 1} ({share[i]:.0%} of variance)" for i in range(3)]
    return (centred @ directions[:3].T).numpy(), names


def latent_scatter(points: NDArray[np.float32], axes: list[str], labels: Tensor) -> go.Figure:
    """Interactive scatter of `points` (N, 2 or 3): a trace and a legend entry per digit."""
    figure = go.Figure()
    for digit, chosen in _by_digit(labels):
        coordinates = dict(zip("xyz", points[chosen].T, strict=False))
        look = {"name": str(digit), "mode": "markers", "hovertemplate": f"digit {digit}<br>%{{x:.2f}}, %{{y:.2f}}"}
        if len(axes) == 3:
            look["hovertemplate"] += ", %{z:.2f}"
            figure.add_scatter3d(**coordinates, **look, marker={"size": 2, "color": COLORS[digit % 10]})
        else:
            figure.add_scattergl(**coordinates, **look, marker={"size": 4, "color": COLORS[digit % 10]})
    figure.update_layout(
        title=f"Latent means of {len(points):,} test images",
        legend={"title": "digit", "itemsizing": "constant"},
        margin={"l": 0, "r": 0, "b": 0, "t": 50},
    )
    if len(axes) == 3:
        scene = {f"{letter}axis": {"title": name} for letter, name in zip("xyz", axes, strict=True)}
        figure.update_layout(scene=scene | {"aspectmode": "data", "camera": {"eye": {"x": 1.5, "y": 1.5, "z": 0.9}}})
    else:
        figure.update_layout(xaxis={"title": axes[0]}, yaxis={"title": axes[1], "scaleanchor": "x"})
    return figure


def latent_picture(points: NDArray[np.float32], axes: list[str], labels: Tensor) -> Figure:
    """The same scatter as a still picture: a panel for each pair of axes."""
    pairs = list(combinations(range(len(axes)), 2))
    figure = Figure(figsize=(4 * len(pairs) + 0.6, 4), layout="constrained")
    for plot, (i, j) in zip(figure.subplots(1, len(pairs), squeeze=False).flat, pairs, strict=True):
        for digit, chosen in _by_digit(labels):
            x, y = points[chosen, i], points[chosen, j]
            plot.scatter(x, y, s=3, alpha=0.5, linewidths=0, color=COLORS[digit % 10], label=str(digit))
        plot.set(xlabel=axes[i], ylabel=axes[j], aspect="equal", adjustable="datalim")
    handles, names = plot.get_legend_handles_labels()
    legend = figure.legend(handles, names, title="digit", markerscale=4, frameon=False, loc="outside right center")
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return figure


def reconstructions(model: VAE, test: Dataset) -> Figure:
    """The first test image of each digit, above its reconstruction from the mean of q(z|x)."""
    first = [int(chosen.argmax()) for _, chosen in _by_digit(test.labels)]
    x = to_pixels(test.images[first])
    with torch.inference_mode():
        decoded = torch.sigmoid(model.decode(model.encode(x)[0]))
    figure = Figure(figsize=(len(first) * 0.7, 1.5))
    grid = figure.subplots(2, len(first), squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    for column, pair in enumerate(zip(x, decoded, strict=True)):
        for row, image in enumerate(pair):
            _show(grid[row, column], image)
    for row, name in enumerate(("test image", "reconstruction")):
        grid[row, 0].text(-0.15, 0.5, name, ha="right", va="center", transform=grid[row, 0].transAxes)
    return figure


def samples(model: VAE, seed: int, side: int = 10) -> Figure:
    """A square grid of images decoded from z ~ N(0, I)."""
    z = torch.randn(side * side, model.config.latent_dim, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        decoded = torch.sigmoid(model.decode(z))
    figure = Figure(figsize=(5, 5))
    grid = figure.subplots(side, side, gridspec_kw={"wspace": 0.04, "hspace": 0.04})
    for plot, image in zip(grid.flat, decoded, strict=True):
        _show(plot, image)
    return figure


def _by_digit(labels: Tensor) -> list[tuple[int, NDArray[np.bool_]]]:
    return [(int(digit), (labels == digit).numpy()) for digit in labels.unique()]


def _show(plot: Axes, image: Tensor) -> None:
    channels_last = image.permute(1, 2, 0).numpy()
    plot.imshow(channels_last, cmap="gray", vmin=0, vmax=1)  # of one channel: by the colour map
    plot.set_axis_off()
