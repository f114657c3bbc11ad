"""How well the latent space keeps the classes apart: a k-nearest-neighbour classifier on the posterior means."""

from __future__ import annotations

import torch
from tqdm import tqdm

from training.data.dataset import NO_LABEL
from vae import LatentSet

NEIGHBOURS = 10
"""k: the nearest by Euclidean distance have one vote each; of classes with as many votes the lowest label wins."""
DISTANCES = 2**24
"""How many distances are held at a time: 64 MiB."""


def neighbour_accuracy(
    queries: LatentSet, references: LatentSet | None = None, *, progress: bool = False
) -> float | None:
    """Share (0 to 1) of `queries` whose class is that of most of the NEIGHBOURS nearest `references`.

    Without references each query is classified by all the others (leave-one-out). Images without a label take no part;
    None where that leaves nothing to compare.
    """
    alone = references is None
    asked = _labelled(queries)
    known = asked if references is None else _labelled(references)
    neighbours = min(NEIGHBOURS, len(known.label) - alone)
    if neighbours < 1 or not len(asked.label):
        return None
    classes, known_class = known.label.unique(return_inverse=True)
    centre = known.mean.mean(0)  # differences of large numbers would cost digits
    points = known.mean - centre
    squares = points.square().sum(1)
    rows = max(1, DISTANCES // len(points))
    correct = 0
    batches = tqdm(
        (asked.mean - centre).split(rows), desc="nearest neighbours", unit="batch", leave=False, disable=not progress
    )
    for number, batch in enumerate(batches):
        chosen = torch.arange(number * rows, number * rows + len(batch))
        distance = torch.addmm(squares, batch, points.T, alpha=-2)  # squared, less |query|²: that changes no order
        if alone:
            distance[torch.arange(len(batch)), chosen] = torch.inf
        nearest = known_class[distance.topk(neighbours, largest=False).indices]
        votes = torch.zeros(len(batch), len(classes)).scatter_add_(1, nearest, torch.ones(nearest.shape))
        correct += int((classes[votes.argmax(1)] == asked.label[chosen]).sum())
    return correct / len(asked.label)


def _labelled(latents: LatentSet) -> LatentSet:
    labelled = latents.label != NO_LABEL
    return LatentSet(latents.mean[labelled], latents.label[labelled])
