"""The metrics of a checkpoint as a table with columns for the test and the training set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from training.data.dataset import NO_LABEL, Dataset
from training.metrics.neighbours import NEIGHBOURS
from training.metrics.posterior import ACTIVE_ABOVE
from training.metrics.summary import BOUND_LIMIT, TRAIN_LIMIT
from vae.config import Likelihood
from vae.noise import DRAWS

DIMENSIONS_SHOWN = 16
NONE = "–"
NATS = "nats per image"
LIKELIHOOD_NOTES: dict[Likelihood, str] = {
    "bernoulli": "Losses in nats take grey pixels for probabilities of a Bernoulli decoder, whose density of them is "
    "not normalised (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845): they compare models on the same images, and "
    "are no negative log-densities.",
    "continuous-bernoulli": "Losses in nats are negative log-densities of pixels in [0, 1] under a continuous "
    "Bernoulli decoder (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845): they can be negative.",
    "gaussian": "Losses in nats are negative log-densities of pixels in [0, 1] under a Gaussian decoder: they can be "
    "negative.",
    "logistic": "Losses in nats are negative log-probabilities of 8-bit pixels under a discretised logistic decoder "
    "(Salimans et al. 2017, arXiv:1701.05517); bits/dim are −ELBO / (ln 2 · values of an image).",
}
"""What the losses are, by likelihood."""


class Row(NamedTuple):
    """One row of the table, as text."""

    name: str
    test: str
    train: str
    unit: str


HEADER = Row("", "test", "training", "unit")


def rows(metrics: Mapping[str, float]) -> Iterator[Row]:
    """A row for each of `metrics` (of `training.metrics.summary`), both sets beside each other."""

    def row(name: str, key: str, unit: str, write: Callable[[float], str]) -> Row:
        values = (metrics.get(f"{part}_{key}") for part in ("test", "train"))
        test, train = (NONE if value is None else write(value) for value in values)
        return Row(name, test, train, unit)

    nats, share = "{:.2f}".format, "{:.3f}".format
    yield row("images", "images", "", "{:,.0f}".format)
    yield row("−ELBO", "neg_elbo", NATS, nats)
    if "test_bits_per_dim" in metrics:
        yield row("−ELBO", "bits_per_dim", "bits/dim", share)
    yield row("reconstruction loss", "reconstruction_loss", NATS, nats)
    yield row("KL divergence to N(0, I)", "kl_divergence", NATS, nats)
    dimensions = _dimensions(metrics)
    for dimension in sorted(dimensions[:DIMENSIONS_SHOWN]):
        yield row(f"– of {_part(metrics)} {dimension}", f"kl_divergence_{dimension}", NATS, nats)
    samples = metrics.get("importance_samples", 0)
    if samples:
        name = f"−log p(x), upper bound, K = {samples:,.0f}"
        yield row(name, "neg_importance_weighted_bound", NATS, nats)
        yield row("– images that this is a mean over", "bound_images", "", "{:,.0f}".format)
    units = len(dimensions) * metrics.get("latent_positions", 1)
    yield row("active units", "active_units", f"of {units:.0f}", "{:.0f}".format)
    yield row("mean squared error", "squared_error", "per pixel, 0 to 1", "{:.5f}".format)
    yield row(f"{NEIGHBOURS}-nearest-neighbour accuracy", "neighbour_accuracy", "share of images", share)


def notes(metrics: Mapping[str, float], likelihood: Likelihood) -> list[str]:
    """Explain the rows, one sentence each; `likelihood` is that of the model."""
    lines = [
        f"−ELBO and reconstruction loss: {DRAWS} posterior samples per image.",
        f"Active units: dimensions whose posterior mean has a variance over the images above {ACTIVE_ABOVE} "
        "(Burda et al. 2016).",
        "Mean squared error: of the image decoded from the posterior mean.",
    ]
    if "importance_samples" in metrics:
        lines.insert(1, "−log p(x): importance-weighted bound of Burda et al. (2016).")
    if "test_neg_elbo" in metrics:
        lines.append(LIKELIHOOD_NOTES[likelihood])
    if "test_neighbour_accuracy" in metrics:
        lines.append(
            f"Nearest neighbours: the class of most of the {NEIGHBOURS} training images with the nearest latent means, "
            "other than the image itself."
        )
    hidden = len(_dimensions(metrics)) - DIMENSIONS_SHOWN
    if hidden > 0:
        lines.insert(
            1,
            f"The {DIMENSIONS_SHOWN} {_part(metrics)}s with the largest KL divergence; --json has the other {hidden}.",
        )
    return lines


def left_out(metrics: Mapping[str, float], train: Dataset, test: Dataset) -> list[str]:
    """What a complete measurement would add to `metrics`: a phrase for each that there was no time for."""
    lines = []
    for part, name, dataset, most in (
        ("test", "test", test, len(test)),
        ("train", "training", train, min(len(train), TRAIN_LIMIT)),
    ):
        measured = metrics[f"{part}_images"]
        if measured < most:
            lines.append(f"{measured:,.0f} of {most:,} {name} images were measured")
        if f"{part}_neighbour_accuracy" not in metrics and bool((dataset.labels != NO_LABEL).any()):
            lines.append(f"neighbours were sought for no {name} image")
        bounded, all_bounded = metrics.get(f"{part}_bound_images", 0), min(most, BOUND_LIMIT)
        if bounded < all_bounded:
            lines.append(f"log p(x) was bounded for {bounded:,.0f} of {all_bounded:,} {name} images")
    return lines


def as_text(metrics: Mapping[str, float], likelihood: Likelihood = "bernoulli") -> str:
    """Return the table and its notes for a terminal, numbers aligned on the right."""
    table = [HEADER, *rows(metrics)]
    name, test, train = (max(len(row[column]) for row in table) for column in range(3))
    lines = [f"{row.name:<{name}}  {row.test:>{test}}  {row.train:>{train}}  {row.unit}".rstrip() for row in table]
    return "\n".join([*lines, "", *notes(metrics, likelihood)])


def as_markdown(metrics: Mapping[str, float], likelihood: Likelihood = "bernoulli") -> str:
    """Return the table and its notes as Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (HEADER, *rows(metrics))]
    lines.insert(1, "|---|---:|---:|---|")
    return "\n".join([*lines, "", *notes(metrics, likelihood)])


def _part(metrics: Mapping[str, float]) -> str:
    """Return of what the KL divergences are: `dimension` of a vector, or `channel` of a map."""
    return "channel" if "latent_positions" in metrics else "dimension"


def _dimensions(metrics: Mapping[str, float]) -> list[int]:
    """Return the latent dimensions, or channels, in descending order of their KL divergence on the test set."""
    prefix = "test_kl_divergence_"
    found = {int(name.removeprefix(prefix)): nats for name, nats in metrics.items() if name.startswith(prefix)}
    return sorted(found, key=lambda dimension: -found[dimension])
