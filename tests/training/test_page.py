"""The examples and the tables of docs/training.md."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from tests.live import ROOT
from tests.training.conftest import RAW_NAMES
from training import PRESETS
from training.config.file import read_config

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "training.md").read_text()


def section(heading: str) -> str:
    (found,) = re.findall(rf"^## {heading}\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def test_the_examples_in_python_run(
    digits: dict[str, NDArray[np.uint8]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("digits.npy", digits[RAW_NAMES[0]])
    np.save("labels.npy", digits[RAW_NAMES[1]])
    names: dict[str, Any] = {}
    for example in re.findall(r"^```python\n(.*?)^```$", section("From Python"), re.DOTALL | re.MULTILINE):
        exec(example, names)
    assert names["samples"].shape == (16, 1, 28, 28)
    assert names["reconstructions"].shape == (10, 1, 28, 28)
    assert names["model"].metadata.metrics == names["result"].metrics
    assert {path.name for path in tmp_path.iterdir()} == {"digits.npy", "labels.npy", "out"}


def test_the_table_has_every_preset() -> None:
    assert re.findall(r"^\| `(\w[\w-]*)` \|", section("Presets"), re.MULTILINE) == list(PRESETS)


def test_the_configuration_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", section("Configuration"), re.DOTALL | re.MULTILINE)
    path = tmp_path / "parts.yaml"
    path.write_text(example)
    assert read_config(path).keys() == yaml.safe_load(example).keys()
