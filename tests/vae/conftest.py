from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import vae
from tests.vae.reference import Reference
from weights import __file__ as weights_file

BUNDLED = Path(weights_file).with_name("mnist.safetensors")


@pytest.fixture(scope="session")
def bundled() -> vae.Checkpoint:
    return vae.load(BUNDLED)


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference.read(BUNDLED)


@pytest.fixture(scope="session")
def x(images: NDArray[np.uint8]) -> torch.Tensor:
    """The digits as model input, (200, 1, 28, 28) in [0, 1]."""
    return torch.from_numpy(images).unsqueeze(1) / 255


@pytest.fixture
def small() -> vae.VAE:
    """A tiny untrained model with fixed weights."""
    torch.manual_seed(0)
    return vae.VAE(vae.VAEConfig(hidden_dim=8))
