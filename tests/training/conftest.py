from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import vae
from training.__main__ import main

DIGITS = Path(__file__).parents[1] / "data" / "digits.npz"
RAW_NAMES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


IMPORTANCE_SAMPLES = 10
"""Samples of the bound on log p(x) at the end of each training in these tests."""


@pytest.fixture(scope="session", autouse=True)
def little_work() -> Iterator[None]:
    """Use one thread, which is fastest for small models, and few importance samples."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr("training.fitting.fit.IMPORTANCE_SAMPLES", IMPORTANCE_SAMPLES)
        yield


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """The idx format: a magic number that ends in the number of dimensions, the sizes big-endian, the values."""
    header = np.array([0x0800 + array.ndim, *array.shape], dtype=">u4")
    return header.tobytes() + array.tobytes()


def sample_digits() -> dict[str, NDArray[np.uint8]]:
    """The idx files' names → their arrays: 400 training and 200 test digits of MNIST."""
    with np.load(DIGITS) as sample:
        arrays = [sample[name] for name in ("train_images", "train_labels", "images", "labels")]
    return {name: array.astype(np.uint8) for name, array in zip(RAW_NAMES, arrays, strict=True)}


def write_digits(folder: Path, digits: dict[str, NDArray[np.uint8]]) -> None:
    """Write a small MNIST in the layout of torchvision."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in digits.items():
        (raw / name).write_bytes(idx_bytes(array))


@pytest.fixture(scope="session")
def digits() -> dict[str, NDArray[np.uint8]]:
    """`sample_digits`, read once."""
    return sample_digits()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory, digits: dict[str, NDArray[np.uint8]]) -> Path:
    """A folder with a small MNIST, in the layout of torchvision."""
    folder = tmp_path_factory.mktemp("data")
    write_digits(folder, digits)
    return folder


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A checkpoint of a small model, fitted to the small MNIST through the command line."""
    out = tmp_path_factory.mktemp("fitted") / "small.safetensors"
    options = ["--epochs", "2", "--hidden-dim", "16", "--validation", "100", "--warmup-steps", "2", "--device", "cpu"]
    options += ["--measure", "full"]
    assert main(["fit", "--data-dir", str(data_dir), "--out", str(out), *options]) == 0
    return out


@pytest.fixture
def new_checkpoint(tmp_path: Path) -> Callable[[vae.VAEConfig], Path]:
    """Writes an untrained checkpoint of the given configuration."""

    def write(config: vae.VAEConfig) -> Path:
        torch.manual_seed(0)
        path = tmp_path / f"latent{config.latent_dim}.safetensors"
        vae.save(path, vae.VAE(config), training={}, metrics={})
        return path

    return write
