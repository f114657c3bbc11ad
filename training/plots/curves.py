"""Plot the losses of a training by epoch."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.data.dataset import DataError

PARTS = {"train": ("training (mean over the epoch)", "-"), "validation": ("validation (after the epoch)", "--")}
LOSSES = {"reconstruction_loss": "reconstruction loss", "kl_divergence": "KL divergence"}
NEEDED = {"epoch", *(f"train_{key}" for key in LOSSES)}


def read_history(path: Path) -> list[dict[str, float]]:
    """Read the history that `vae-train fit` writes.

    Returns:
        One record per epoch; an empty list if the file does not exist.

    Raises:
        DataError: The file is damaged.

    """
    if not path.exists():
        return []
    try:
        history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        history = [{name: float(value) for name, value in record.items()} for record in history]
    except (ValueError, AttributeError, TypeError):
        history = [{}]
    if not all(record.keys() >= NEEDED for record in history):
        raise DataError(f"{path} is not the history of a training: remove it, or train again.")
    return history


def loss_curves(history: list[dict[str, float]]) -> Figure:
    """Plot reconstruction loss and KL divergence in separate panels, because their scales differ by a factor of 10."""
    figure = Figure(figsize=(8, 3.3), layout="constrained")
    for plot, (key, name) in zip(figure.subplots(1, len(LOSSES)), LOSSES.items(), strict=True):
        for part, (label, line) in PARTS.items():
            points = [(each["epoch"], each[f"{part}_{key}"]) for each in history if f"{part}_{key}" in each]
            if points:
                plot.plot(*zip(*points, strict=True), line, marker="o", markersize=3, label=label)
        plot.set(title=name, xlabel="epoch", ylabel="nats per image")
        plot.xaxis.set_major_locator(MaxNLocator(integer=True))
        plot.ticklabel_format(axis="y", useOffset=False)
        plot.grid(alpha=0.3, linewidth=0.5)
        plot.spines[["top", "right"]].set_visible(False)
    handles, names = plot.get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="outside lower center", ncols=2)
    return figure
