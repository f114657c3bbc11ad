"""The latent space: the posterior means of a set of images, coloured by class where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import plotly.graph_objects as go
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from training.data.dataset import NO_LABEL

COLORS = [  # of the first ten classes: matplotlib's tab10, told apart by most colour-blind people
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
]  # fmt: skip
LEGEND_ROWS = 16


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
    names = [f"principal component {i + 1} ({share[i]:.0%} of variance)" for i in range(min(3, len(singular)))]
    return (centred @ directions[:3].T).numpy(), names


def latent_scatter(
    points: NDArray[np.float32], axes: list[str], labels: Tensor, noun: str = "class", names: Sequence[str] = ()
) -> go.Figure:
    """Interactive scatter of `points` (N, 2 or 3): a trace and a legend entry per class, which is called `noun`.

    `names` are those of the labels from 0 on; without them the labels stand for themselves.
    """
    figure = go.Figure()
    for name, color, chosen in _classes(labels, names):
        coordinates = dict(zip("xyz", points[chosen].T, strict=False))
        hover = f"{noun} {name}<br>" if name else ""
        look = {
            "name": name,
            "mode": "markers",
            "hovertemplate": hover + "%{x:.2f}, %{y:.2f}",
            "showlegend": bool(name),
        }
        if len(axes) == 3:
            look["hovertemplate"] = hover + "%{x:.2f}, %{y:.2f}, %{z:.2f}"
            figure.add_scatter3d(**coordinates, **look, marker={"size": 2, "color": color})
        else:
            figure.add_scattergl(**coordinates, **look, marker={"size": 4, "color": color})
    figure.update_layout(
        title=f"Latent means of {len(points):,} test images",
        legend={"title": noun, "itemsizing": "constant"},
        margin={"l": 0, "r": 0, "b": 0, "t": 50},
    )
    if len(axes) == 3:
        scene = {f"{letter}axis": {"title": name} for letter, name in zip("xyz", axes, strict=True)}
        figure.update_layout(scene=scene | {"aspectmode": "data", "camera": {"eye": {"x": 1.5, "y": 1.5, "z": 0.9}}})
    else:
        figure.update_layout(xaxis={"title": axes[0]}, yaxis={"title": axes[1], "scaleanchor": "x"})
    return figure


def latent_picture(
    points: NDArray[np.float32], axes: list[str], labels: Tensor, noun: str = "class", names: Sequence[str] = ()
) -> Figure:
    """The same scatter as a still picture: a panel for each pair of axes."""
    pairs = list(combinations(range(len(axes)), 2))
    figure = Figure(figsize=(4 * len(pairs) + 0.6, 4), layout="constrained")
    for plot, (i, j) in zip(figure.subplots(1, len(pairs), squeeze=False).flat, pairs, strict=True):
        for name, color, chosen in _classes(labels, names):
            x, y = points[chosen, i], points[chosen, j]
            plot.scatter(x, y, s=3, alpha=0.5, linewidths=0, color=color, label=name or None)
        plot.set(xlabel=axes[i], ylabel=axes[j], aspect="equal", adjustable="datalim")
    handles, entries = plot.get_legend_handles_labels()
    if entries:
        columns = -(-len(entries) // LEGEND_ROWS)
        legend = figure.legend(
            handles, entries, title=noun, markerscale=4, frameon=False, loc="outside right center", ncols=columns
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    return figure


def _classes(labels: Tensor, names: Sequence[str]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Name ("" of images without a label), colour and members of each class."""
    found = [int(label) for label in labels.unique()]
    for label in found:
        color = COLORS[label % len(COLORS)]
        if len(found) > len(COLORS):
            color = to_hex(colormaps["turbo"](label / max(found)))
        yield (
            "" if label == NO_LABEL else names[label] if names else str(label),
            COLORS[0] if label == NO_LABEL else color,
            (labels == label).numpy(),
        )
