"""How isolated the latent of an image is among those of training images. Does not import torch."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vae.config import VAEConfig

FloatArray = npt.NDArray[np.float32]

NEIGHBOURS = 10
"""k, the number of nearest references that a latent is compared with."""
COUNT_LIMIT = 10_000
"""Most references: the cost of a factor is proportional to them."""
NUMBERS_LIMIT = 2**21
"""Most numbers of all references, 4 MiB in a checkpoint."""
SPARE = 6
"""Candidates beyond the k nearest: rounding in the product of matrices can change the order of near ones, so the exact
distances to a few more are computed."""
BLOCK = 2**18
"""Distances held at a time, 1 MiB."""
BLOCK_BYTES = 16
"""Bytes that a distance takes: twice as float32, and as an index of int64."""
NEIGHBOUR_BYTES = 24
"""Bytes that a neighbour takes: its distance and its own as float32, and its index as int64, twice."""
EPSILON = np.float32(1e-10)
"""Added to distances, as in scikit-learn's LocalOutlierFactor: a latent among equal references has the factor 1."""


@dataclass(frozen=True, eq=False)
class References:
    """Latents of M training images, from which `outlier_factor` computes how isolated other latents are."""

    mean: FloatArray
    """Means of q(z|x), (M, D), float32; maps as vectors of C'·h·w. A checkpoint has them as float16."""
    distance: FloatArray
    """Mean Euclidean distance of each to its NEIGHBOURS nearest other ones, or to all if they are fewer, (M,)."""

    @classmethod
    def of(cls, mean: FloatArray) -> References:
        """Return references for the posterior means (M, D), M ≥ 1, of training images.

        They are rounded as a checkpoint stores them, and limited to the range of float16, ±65,504.
        """
        limit = np.finfo(np.float16).max
        mean = np.clip(mean, -limit, limit).astype(np.float16).astype(np.float32)
        references = cls(mean, np.zeros(len(mean), np.float32))
        distance, _ = references._nearest(mean, np.arange(len(mean)))
        return cls(mean, distance)

    @classmethod
    def parse(cls, text: str, config: VAEConfig) -> References:
        """Read what `str` gives; raises ValueError where it is damaged or of another model."""
        try:
            arrays = load(base64.b64decode(text, validate=True))
            stored = arrays.pop("mean"), arrays.pop("distance")
        except (SafetensorError, AttributeError, KeyError) as error:  # AttributeError for a dtype that NumPy lacks
            raise ValueError(str(error)) from error
        count = len(stored[1]) if stored[1].ndim else 0
        for array, dtype, shape in zip(
            stored, (np.float16, np.float32), ((count, prod(config.latent_shape)), (count,)), strict=True
        ):
            if array.dtype != dtype or array.shape != shape or not count:
                raise ValueError("mean or distance has the wrong shape or dtype")
            if not np.isfinite(array).all():
                raise ValueError("mean or distance holds values that are not finite numbers")
        mean, distance = stored
        if arrays or (distance < 0).any():
            raise ValueError("it must have mean and distance, which is not negative")
        return cls(mean.astype(np.float32), distance)

    def __str__(self) -> str:
        """Return them as text: a safetensors file in base64."""
        return base64.b64encode(save({"mean": self.mean.astype(np.float16), "distance": self.distance})).decode()

    def outlier_factor(self, mean: FloatArray) -> FloatArray:
        """Compute how isolated latents are among the references, against how isolated their neighbours are.

        The factor is the mean distance of a latent to its NEIGHBOURS nearest references, divided by the mean of the
        same distance of these references: about 1 for usual images, higher for unusual ones. It is a local outlier
        factor (Breunig et al. 2000) without reachability distances, as the simplified one of Schubert, Zimek & Kriegel
        (2014), with the mean distance to the k neighbours in the place of the distance to the k-th.

        Args:
            mean: Posterior means of N images, (N, …) float32, vectors or maps of the model. The image of a reference
                is its own nearest neighbour, so that factors of training images are too low.

        Returns:
            Factors (N,), float32, 0 or more, without a unit. That of an image depends on no other image.

        """
        mean = mean.reshape(len(mean), -1)
        distance, nearest = self._nearest(mean, np.full(len(mean), -1))
        expected = self.distance[nearest].mean(1)
        factor: FloatArray = (distance + EPSILON) / (expected + EPSILON)
        return factor

    def working_bytes(self, count: int) -> int:
        """Return the bytes that `outlier_factor` takes for `count` latents beside its result, at most."""
        return BLOCK_BYTES * self.row_size * min(count, self._rows) + NEIGHBOUR_BYTES * NEIGHBOURS * count

    @cached_property
    def _squares(self) -> FloatArray:
        squares: FloatArray = np.square(self.mean).sum(1)
        return squares

    @property
    def row_size(self) -> int:
        """Numbers that are held for one latent: its distances, or its differences from the candidates."""
        count, dimensions = map(int, self.mean.shape)
        return max(count, (NEIGHBOURS + SPARE) * dimensions)

    @property
    def _rows(self) -> int:
        """Latents of a block."""
        return max(1, BLOCK // self.row_size)

    def _nearest(self, mean: FloatArray, own: npt.NDArray[np.int64]) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Find the nearest references of latents (N, D): their mean distance (N,), and which they are (N, k).

        `own` (N,) is the reference that a latent is, which is not compared with itself, or -1.
        """
        starts = range(0, len(mean), self._rows)
        blocks = [
            self._nearest_in_block(mean[start : start + self._rows], own[start : start + self._rows])
            for start in starts
        ]
        distance, nearest = (np.concatenate(each) for each in zip(*blocks, strict=True))
        return distance, nearest

    def _nearest_in_block(
        self, mean: FloatArray, own: npt.NDArray[np.int64]
    ) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        others = len(self.mean) - (own[0] >= 0)
        neighbours = min(NEIGHBOURS, others)
        candidates = min(NEIGHBOURS + SPARE, len(self.mean))
        squared = mean @ self.mean.T  # |a − b|² = |a|² + |b|² − 2ab, of which |a|² does not change the order
        squared *= -2
        squared += self._squares
        found = np.argpartition(squared, candidates - 1, axis=1)[:, :candidates]
        found.sort(axis=1)
        # Products of matrices round differently in batches of other sizes: these distances depend on no other row.
        distance = np.sqrt(np.square(mean[:, np.newaxis] - self.mean[found]).sum(2))
        distance[found == own[:, np.newaxis]] = np.inf
        order = np.argsort(distance, axis=1, kind="stable")[:, :neighbours]
        nearest_distance = np.take_along_axis(distance, order, 1)
        return nearest_distance.sum(1) / np.float32(max(1, neighbours)), np.take_along_axis(found, order, 1)


def reference_count(images: int, config: VAEConfig) -> int:
    """Return how many of `images` training images are references."""
    return max(1, min(images, COUNT_LIMIT, NUMBERS_LIMIT // prod(config.latent_shape)))
