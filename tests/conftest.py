import os
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def kl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small AutoencoderKL of diffusers, to be read only."""
    from tests.vae.autoencoder import write_folder  # noqa: PLC0415 - imports torch and diffusers

    folder = tmp_path_factory.mktemp("models") / "small"
    write_folder(folder)
    return folder


@pytest.fixture(scope="session")
def kl_network(kl_folder: Path) -> Any:
    """The network in `kl_folder`, as diffusers loads it."""
    from diffusers import AutoencoderKL  # noqa: PLC0415 - takes seconds

    return AutoencoderKL.from_pretrained(kl_folder).eval().requires_grad_(False)
