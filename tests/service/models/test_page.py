"""docs/models.md: its roll-out and its way back, on a running service."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from service.models.models_file import ModelsFile
from tests.live import ROOT
from tests.service.models.small_models import put
from tests.service.running import Running, running, wait_until

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/models.md").read_text()
ROLL_OUT = PAGE[PAGE.index("### A roll-out") : PAGE.index("## Several workers")]
Z = [0.3, 1.6, -2.4]


@pytest.fixture
def service(tmp_path: Path, sources: list[Path], impatient: None) -> Iterator[Running]:
    models = tmp_path / "models"
    (models / "faces").mkdir(parents=True)
    put(sources[0], models / "digits.safetensors")
    put(sources[1], models / "faces/3.safetensors")
    put(sources[2], tmp_path / "new.safetensors")
    (models / "models.yaml").write_text(re.search(r"```yaml\n(.*?)```", ROLL_OUT, re.DOTALL)[1])  # type: ignore[index]
    with running(models=models) as service:
        yield service


def move_alias(folder: Path, target: str) -> None:
    assert f"`{target}`" in ROLL_OUT or f"`stable: {target}`" in ROLL_OUT
    (folder / "models/.new").write_text(f"aliases: {{default: digits, stable: {target}}}")
    (folder / "models/.new").rename(folder / "models/models.yaml")


def test_the_roll_out_and_the_way_back(service: Running, tmp_path: Path) -> None:
    def decode(path: str) -> bytes:
        return service.client.post(f"{path}/decode", json=Z).content

    old, digits = decode("/models/stable"), decode("")
    assert old == decode("/models/faces") != digits
    (command,) = re.findall(r"^ *(cp .*)$", ROLL_OUT, re.MULTILINE)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    wait_until(lambda: decode("/models/faces") != old)
    new = decode("/models/faces")
    assert decode("/models/stable") == old

    move_alias(tmp_path, "faces/4")
    wait_until(lambda: decode("/models/stable") == new)
    move_alias(tmp_path, "faces/3")
    wait_until(lambda: decode("/models/stable") == old)
    assert decode("/models/faces") == new

    move_alias(tmp_path, "faces/4")
    wait_until(lambda: decode("/models/stable") == new)
    (tmp_path / "models/faces/3.safetensors").unlink()
    wait_until(lambda: service.client.post("/models/faces/decode?version=3", json=Z).status_code == 404)
    assert decode("") == digits


def test_the_example_of_models_yaml_is_valid() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        assert ModelsFile.model_validate(yaml.safe_load(block)).aliases["default"] == "digits"
