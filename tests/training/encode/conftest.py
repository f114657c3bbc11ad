from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.encode.encoding import SHARD_ROWS, Images
from training.encode import parquet, rows


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred digits are four parts."""
    for module in (rows, parquet):
        monkeypatch.setattr(module, "SHARD_ROWS", SHARD_ROWS)


@pytest.fixture
def npy(tmp_path: Path, images: Images) -> Path:
    path = tmp_path / "digits.npy"
    np.save(path, images)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
