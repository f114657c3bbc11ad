"""Every picture of a model, each in its file."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from tqdm import tqdm

from training.data.dataset import Dataset
from training.fitting.outputs import Outputs
from training.metrics.posterior import Posterior
from training.plots.curves import loss_curves, read_history
from training.plots.grids import interpolations, reconstructions, samples
from training.plots.manifold import DIMENSIONS, manifold, pairs_to_draw
from training.plots.scatter import latent_picture, latent_scatter, project
from vae import VAE
from vae.files import write_atomically

DPI = 200


def draw_all(model: VAE, test: Dataset, checkpoint: Path, out: Path, seed: int) -> list[Path]:
    """Write every picture of `model`, read from `checkpoint`, into the folder `out`; returns their paths.

    What is left out is said on stderr. Raises DataError for a damaged history.
    """
    out.mkdir(parents=True, exist_ok=True)
    history = read_history(Outputs(checkpoint).history)
    posterior = Posterior.of(model, test.images)
    points, axes = project(posterior.mean)
    noun = "digit" if test.name == "mnist" else "class"
    pictures: dict[str, Callable[[], Figure]] = {
        "latents.png": lambda: latent_picture(points, axes, test.labels, noun, test.classes),
        "reconstructions.png": lambda: reconstructions(model, test),
        "samples.png": lambda: samples(model, seed),
        "interpolations.png": lambda: interpolations(model, test),
    }
    pairs = pairs_to_draw(posterior.kl_per_dimension())
    for pair in pairs:
        names = "-".join(f"z{dimension + 1}" for dimension in pair)
        pictures[f"manifold-{names}.png"] = partial(manifold, model, pair)
    if len(posterior.mean[0]) > DIMENSIONS:
        chosen = ", ".join(f"z{dimension + 1}" for dimension in sorted({each for pair in pairs for each in pair}))
        print(
            f"The manifold is drawn over the {DIMENSIONS} dimensions of largest KL divergence: {chosen}.",
            file=sys.stderr,
        )
    if history:
        pictures["losses.png"] = lambda: loss_curves(history)
    else:
        print(f"There is no {Outputs(checkpoint).history}: the loss curves are left out.", file=sys.stderr)
    written = [out / "latent3d.html"]
    # plotly.js goes into the file (4.5 MB, most of it), so that it opens without a network
    scatter = latent_scatter(points, axes, test.labels, noun, test.classes)
    page = scatter.to_html(include_plotlyjs=True, default_height="96vh", config={"displaylogo": False})
    write_atomically(written[0], page.encode())
    for name, draw in tqdm(pictures.items(), unit="picture", leave=False):
        picture = io.BytesIO()
        draw().savefig(picture, dpi=DPI, bbox_inches="tight")
        write_atomically(out / name, picture.getvalue())
        written.append(out / name)
    return written
