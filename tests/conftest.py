import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here or in a subprocess: pytest-xdist fills the cores


@pytest.fixture(scope="session")
def images() -> NDArray[np.uint8]:
    """The first 200 test digits of MNIST, (200, 28, 28)."""
    with np.load(Path(__file__).parent / "data" / "digits.npz") as sample:
        return np.asarray(sample["images"], np.uint8)


@pytest.fixture(scope="session")
def labels() -> NDArray[np.int64]:
    """The labels of `images`, (200,)."""
    with np.load(Path(__file__).parent / "data" / "digits.npz") as sample:
        return np.asarray(sample["labels"], np.int64)
