from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.training.encode.encoding import Images, use_small_parts


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_parts(monkeypatch)


@pytest.fixture
def npy(tmp_path: Path, images: Images) -> Path:
    path = tmp_path / "digits.npy"
    np.save(path, images)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def forked() -> Iterator[None]:
    """Let DataLoader fork its workers, so that they see what a test patches; Python 3.14 starts them afresh."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("fork", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)
