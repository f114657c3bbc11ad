from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def images() -> NDArray[np.uint8]:
    """The first 200 test digits of MNIST, (200, 28, 28)."""
    with np.load(Path(__file__).parent / "data" / "digits.npz") as sample:
        return np.asarray(sample["images"], np.uint8)


@pytest.fixture(scope="session")
def labels() -> NDArray[np.int64]:
    """The digits that `images` show, (200,)."""
    with np.load(Path(__file__).parent / "data" / "digits.npz") as sample:
        return np.asarray(sample["labels"], np.int64)
