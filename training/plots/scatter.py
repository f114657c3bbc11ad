"""Plot the posterior means of a set of images, coloured by class."""

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

COLORS = [  # of up to ten classes: matplotlib's tab10, which most colour-blind people can distinguish
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
]  # fmt: skip
LEGEND_ROWS = 16
"""Most legend entries per column: as many as fit beside the panels."""


def project(latents: Tensor) -> tuple[NDArray[np.float32], list[str]]:
    """Reduce latents to at most three dimensions.

    Args:
        latents: (N, D).

    Returns:
        Coordinates (N, 2) or (N, 3) and the names of their axes: the latents themselves for D of 2 and 3, the first
        three principal components for a larger D; for D = 1, the latent and the order in the test set.

    """
    dimensions = latents.shape[1]
    if dimensions == 1:  # spread the points over a second axis, by their order
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
    """Plot an interactive scatter with a trace and a legend entry per class.

    Args:
        points: Coordinates (N, 2) or (N, 3).
        axes: Names of the axes.
        labels: Labels (N,).
        noun: What a class is called, such as `digit`.
        names: Names of the labels 0, 1, …; if empty, the labels themselves are shown.

    """
    figure = go.Figure()
    for name, color, chosen in _classes(labels, names):
        coordinates = dict(zip("xyz", points[chosen].T, strict=False))
        hover = f"{noun} {name}<br>" if name else ""
        style = {
            "name": name,
            "mode": "markers",
            "hovertemplate": hover + "%{x:.2f}, %{y:.2f}",
            "showlegend": bool(name),
        }
        if len(axes) == 3:
            style["hovertemplate"] = hover + "%{x:.2f}, %{y:.2f}, %{z:.2f}"
            figure.add_scatter3d(**coordinates, **style, marker={"size": 2, "color": color})
        else:
            figure.add_scattergl(**coordinates, **style, marker={"size": 4, "color": color})
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


def latent_panels(
    points: NDArray[np.float32], axes: list[str], labels: Tensor, noun: str = "class", names: Sequence[str] = ()
) -> Figure:
    """Plot the scatter of `latent_scatter` without interaction, one panel per pair of axes."""
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
    """Yield the name (empty for images without a label), the colour and a mask (N,) of each class."""
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
