from __future__ import annotations

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
