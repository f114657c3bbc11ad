"""Draw all plots of a model to files."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from training.data.dataset import Dataset
from training.fitting.outputs import Outputs
from training.metrics.posterior import Posterior
from training.plots.curves import loss_curves, read_history
from training.plots.grids import interpolations, reconstructions, samples, unusual
from training.plots.manifold import DIMENSIONS, manifold, pairs_to_draw
from training.plots.scatter import latent_panels, latent_scatter, project
from vae import VAE
from vae.files import write_atomically

DPI = 200
"""Resolution of the PNG files, in dots per inch: sharp on screens and in print."""


def draw_all(model: VAE, test: Dataset, checkpoint: Path, out: Path, seed: int) -> list[Path]:
    """Draw all plots of a model. Prints on stderr which plots are omitted.

    Args:
        model: The model, on the CPU.
        test: Test set.
        checkpoint: Path of the model; its history is expected beside it.
        out: Output folder.
        seed: Seed of the random samples.

    Returns:
        The paths of the written files.

    Raises:
        DataError: The history is damaged.

    """
    out.mkdir(parents=True, exist_ok=True)
    history = read_history(Outputs(checkpoint).history)
    posterior = Posterior.of(model, test.images)
    points, axes = project(posterior.mean)
    noun = "digit" if test.name == "mnist" else "class"
    plots: dict[str, Callable[[], Figure]] = {
        "latents.png": lambda: latent_panels(points, axes, test.labels, noun, test.classes),
        "reconstructions.png": lambda: reconstructions(model, test),
        "samples.png": lambda: samples(model, seed),
        "interpolations.png": lambda: interpolations(model, test),
    }
    if model.metadata and model.metadata.references:
        factors = torch.from_numpy(model.metadata.references.outlier_factor(posterior.mean.numpy()))
        plots["unusual.png"] = lambda: unusual(model, test, factors)
    else:
        print("The checkpoint has no reference latents: the unusual images are omitted.", file=sys.stderr)
    pairs = [] if model.config.latent_map else pairs_to_draw(posterior.kl_per_dimension())
    for pair in pairs:
        names = "-".join(f"z{dimension + 1}" for dimension in pair)
        plots[f"manifold-{names}.png"] = partial(manifold, model, pair)
    if not pairs:
        print("The latents are maps: the manifold, of one or two dimensions of a vector, is omitted.", file=sys.stderr)
    elif len(posterior.mean[0]) > DIMENSIONS:
        chosen = ", ".join(f"z{dimension + 1}" for dimension in sorted({each for pair in pairs for each in pair}))
        print(
            f"The manifold is drawn for the {DIMENSIONS} dimensions with the largest KL divergence: {chosen}.",
            file=sys.stderr,
        )
    if history:
        plots["losses.png"] = lambda: loss_curves(history)
    else:
        print(f"There is no {Outputs(checkpoint).history}: the loss curves are omitted.", file=sys.stderr)
    written = [out / "latent3d.html"]
    # plotly.js is part of the file (4.5 MB, most of it), so that it opens without a network
    scatter = latent_scatter(points, axes, test.labels, noun, test.classes)
    page = scatter.to_html(include_plotlyjs=True, default_height="96vh", config={"displaylogo": False})
    write_atomically(written[0], page.encode())
    for name, draw in tqdm(plots.items(), unit="plot", leave=False):
        png = io.BytesIO()
        draw().savefig(png, dpi=DPI, bbox_inches="tight")
        write_atomically(out / name, png.getvalue())
        written.append(out / name)
    return written
