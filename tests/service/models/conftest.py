from pathlib import Path

import pytest

from service.models import rollout, watch
from tests.service.models.small_models import put, write


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints of three models of the same shape."""
    folder = tmp_path_factory.mktemp("sources")
    return [write(folder / f"{seed}.safetensors", seed) for seed in range(3)]


@pytest.fixture
def folder(tmp_path: Path, sources: list[Path]) -> Path:
    """A folder of the models a, and b in the versions 1 and 2."""
    folder = tmp_path / "models"
    (folder / "b").mkdir(parents=True)
    for source, name in zip(sources, ("a", "b/1", "b/2"), strict=True):
        put(source, folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is looked at twenty times a second."""
    monkeypatch.setattr(rollout, "LOOK_INTERVAL_S", 0.05)
    monkeypatch.setattr(watch, "TURN_S", 0.01)
