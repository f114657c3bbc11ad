"""Data sets of arrays in memory."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training import DataError, Dataset
from training.data.arrays import with_test_set
from training.data.dataset import NO_LABEL
from training.data.split import TEST_SHARE, Origin

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), np.uint8)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS.transpose(0, 2, 3, 1), PIXELS),
        (PIXELS[:, 0], PIXELS[:, :1]),
        (PIXELS / 255, PIXELS),
        ((PIXELS / 255).astype(np.float32), PIXELS),
        (torch.from_numpy(PIXELS), PIXELS),
    ],
)
def test_images_of_any_layout_are_uint8(images: Any, expected: NDArray[np.uint8]) -> None:
    dataset = Dataset.from_arrays(images)
    assert dataset.images.dtype == torch.uint8
    assert np.array_equal(dataset.images.numpy(), expected)
    assert dataset.labels.tolist() == [NO_LABEL] * 4


def test_the_data_set_is_a_copy_with_labels_and_names() -> None:
    images, labels = PIXELS.copy(), np.array([1, 0, 1, 1], np.uint8)
    dataset = Dataset.from_arrays(images, labels, name="parts", classes=["good", "bad"])
    images[:], labels[:] = 0, 0
    assert np.array_equal(dataset.images.numpy(), PIXELS)
    assert (dataset.labels.dtype, dataset.labels.tolist()) == (torch.int64, [1, 0, 1, 1])
    assert (dataset.name, dataset.classes) == ("parts", ("good", "bad"))


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (PIXELS / 255 + 0.5, None, "images holds float64 with values that are NaN or outside 0 to 1; uint8"),
        (np.full((2, 5, 5), np.nan), None, "images holds float64 with values that are NaN"),
        (PIXELS.astype(int), None, r"images holds int64 of shape \(4, 3, 5, 6\); .*: convert it with astype"),
        (PIXELS[0, 0], None, r"images holds an array of shape \(5, 6\); \(N, H, W\)"),
        (PIXELS, [0, 1], r"The labels of images are int64 of shape \(2,\); one integer for each of its 4 images"),
        (PIXELS, [0.0, 1.0, 2.0, 3.0], r"The labels of images are float64 of shape \(4,\)"),
    ],
)
def test_other_arrays_are_errors(images: Any, labels: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Dataset.from_arrays(images, labels)


def test_a_test_set_is_split_off_by_content(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    train, test = with_test_set(Dataset.from_arrays(images, labels), None)
    assert len(train) + len(test) == len(images)
    assert len(test) == pytest.approx(TEST_SHARE * len(images), abs=10)
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for part in (train, test):
        assert part.labels.tolist() == [label_of[image.numpy().tobytes()] for image in part.images]
    again, _ = with_test_set(Dataset.from_arrays(images[::-1]), None)
    assert torch.equal(again.images, train.images)
    assert again.origin == train.origin
    assert train.origin.hashed == "pixels"


def test_equal_images_cannot_be_split() -> None:
    with pytest.raises(DataError, match="All images of zeros are equal"):
        with_test_set(Dataset.from_arrays(np.zeros((3, 5, 5), np.uint8), name="zeros"), None)


def test_a_loaded_data_set_keeps_its_origin(images: NDArray[np.uint8]) -> None:
    origin = Origin("0123456789abcdef", "files", TEST_SHARE)
    parts = [replace(Dataset.from_arrays(part), origin=origin) for part in (images[:150], images[150:])]
    train, test = with_test_set(*parts)
    assert (train, test) == tuple(parts)
