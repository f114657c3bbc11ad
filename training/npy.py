"""Images from a .npy file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from training.data import NO_LABEL, DataError, Dataset, shuffled

TEST_SHARE = 0.1
"""Share of a user's own images that is kept for the test set."""


def load_npy(path: Path) -> tuple[Dataset, Dataset]:
    """Training and test set of an array (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 or floating in [0, 1].

    A tenth, chosen once and for all, is the test set. Raises DataError.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a .npy file: {error}.") from error
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or len(array) < 2 or 0 in array.shape:
        raise DataError(
            f"{path} holds an array of shape {array.shape}; (N, H, W), (N, C, H, W) or (N, H, W, C) with C 1 or 3 and "
            "at least 2 images is wanted."
        )
    if array.dtype != np.uint8:
        if array.dtype.kind != "f" or not ((array >= 0) & (array <= 1)).all():
            raise DataError(f"{path} holds {array.dtype}; uint8 (0 to 255) or floating (0 to 1) is wanted.")
        array = np.rint(array * 255).astype(np.uint8)
    images = torch.from_numpy(array)[shuffled(len(array))]
    return Dataset(path.stem, images, torch.full((len(array),), NO_LABEL)).split(TEST_SHARE)
