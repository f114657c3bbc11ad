"""Accuracy of a k-nearest-neighbour classifier on the posterior means."""

from __future__ import annotations

import torch
from tqdm import tqdm

from training.data.dataset import NO_LABEL
from vae import LatentSet

NEIGHBOURS = 10
"""k. The nearest by Euclidean distance have one vote each; ties go to the lowest label."""
DISTANCES = 2**24
"""Distances held at a time: 64 MiB."""


def neighbour_accuracy(
    queries: LatentSet, references: LatentSet | None = None, *, progress: bool = False
) -> float | None:
    """Return the share (0 to 1) of `queries` whose class is the majority among the NEIGHBOURS nearest `references`.

    Without references each query is classified by all other queries (leave-one-out). Images without a label are
    ignored; the result is None if nothing is left to compare.
    """
    leave_one_out = references is None
    asked = _labelled(queries)
    known = asked if references is None else _labelled(references)
    neighbours = min(NEIGHBOURS, len(known.label) - leave_one_out)
    if neighbours < 1 or not len(asked.label):
        return None
    asked_mean, asked_label = torch.from_numpy(asked.mean), torch.from_numpy(asked.label)
    known_mean = torch.from_numpy(known.mean)
    classes, known_class = torch.from_numpy(known.label).unique(return_inverse=True)
    centre = known_mean.mean(0)  # avoids cancellation of large squares
    points = known_mean - centre
    squares = points.square().sum(1)
    rows = max(1, DISTANCES // len(points))
    correct = 0
    batches = tqdm(
        (asked_mean - centre).split(rows), desc="nearest neighbours", unit="batch", leave=False, disable=not progress
    )
    for number, batch in enumerate(batches):
        chosen = torch.arange(number * rows, number * rows + len(batch))
        distance = torch.addmm(
            squares, batch, points.T, alpha=-2
        )  # squared, minus |query|², which does not change the order
        if leave_one_out:
            distance[torch.arange(len(batch)), chosen] = torch.inf
        nearest = known_class[distance.topk(neighbours, largest=False).indices]
        votes = torch.zeros(len(batch), len(classes)).scatter_add_(1, nearest, torch.ones(nearest.shape))
        correct += int((classes[votes.argmax(1)] == asked_label[chosen]).sum())
    return correct / len(asked.label)


def _labelled(latents: LatentSet) -> LatentSet:
    labelled = latents.label != NO_LABEL
    return LatentSet(latents.mean[labelled], latents.label[labelled])
