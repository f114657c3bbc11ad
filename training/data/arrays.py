"""Images of a NumPy array, in memory or mapped from a file, as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from training.data.dataset import NO_LABEL, DataError, Dataset
from training.data.split import TEST_SHARE, UNKNOWN, Origin, fingerprint, positions

EXPECTED = "uint8 (0 to 255) or floating (0 to 1) is expected"


def from_arrays(images: ArrayLike, labels: ArrayLike | None, name: str, classes: Sequence[str]) -> Dataset:
    """Make a data set; see `Dataset.from_arrays`."""
    array = np.asarray(images)
    pixels = to_uint8(view_images(array, name))
    if pixels is None:
        raise DataError(f"{name} holds {array.dtype} with values that are NaN or outside 0 to 1; {EXPECTED}: scale it.")
    numbers = np.full(len(pixels), NO_LABEL) if labels is None else np.asarray(labels)
    if numbers.shape != (len(pixels),) or numbers.dtype.kind not in "iu":
        raise DataError(
            f"The labels of {name} are {numbers.dtype} of shape {numbers.shape}; one integer for each of its "
            f"{len(pixels)} images is expected."
        )
    tensors = torch.from_numpy(np.array(pixels)), torch.from_numpy(numbers.astype(np.int64))  # copies
    return Dataset(name, *tensors, tuple(classes))


def with_test_set(dataset: Dataset, test: Dataset | None) -> tuple[Dataset, Dataset]:
    """Return a training and a test set of images in memory, with their origin, as `training.data.load.load` does.

    Args:
        dataset: The training images, or all images if there is no test set.
        test: The test images; None splits about TEST_SHARE off `dataset`, just as of a .npy file.

    Raises:
        DataError: The two have images of different shapes, or there is nothing to split off.

    """
    if test is None:
        at = positions(dataset.images)
        order = at.argsort(stable=True)
        origin = Origin(fingerprint(at), "pixels", TEST_SHARE)
        images, labels = dataset.images[order], dataset.labels[order]
        return replace(dataset, images=images, labels=labels, positions=at[order], origin=origin).split_test()
    if test.image_shape != dataset.image_shape:
        theirs, ours = ("×".join(map(str, part.image_shape)) for part in (test, dataset))
        raise DataError(f"The test images are {theirs}, the training images {ours}: both must have the same shape.")
    if dataset.origin != UNKNOWN:
        return dataset, test
    hashes = [positions(part.images) for part in (dataset, test)]
    origin = Origin(fingerprint(*hashes))
    return replace(dataset, positions=hashes[0], origin=origin), replace(test, positions=hashes[1], origin=origin)


def view_images(array: NDArray[Any], name: str) -> NDArray[Any]:
    """View (N, H, W), (N, C, H, W) or (N, H, W, C) as (N, C, H, W); raises DataError for any other layout or type."""
    shape, dtype = array.shape, array.dtype
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or len(array) < 2 or 0 in shape:
        raise DataError(
            f"{name} holds an array of shape {shape}; (N, H, W), (N, C, H, W) or (N, H, W, C) with C 1 or 3 "
            "and at least 2 images is expected."
        )
    if dtype != np.uint8 and dtype.kind != "f":
        raise DataError(f"{name} holds {dtype} of shape {shape}; {EXPECTED}: convert it with astype.")
    return array


def to_uint8(images: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Convert floating images in [0, 1] to uint8; return None if a value is NaN or outside."""
    if images.dtype == np.uint8:
        return images
    if not ((images >= 0) & (images <= 1)).all():
        return None
    pixels: NDArray[np.uint8] = np.rint(images * 255).astype(np.uint8)
    return pixels
