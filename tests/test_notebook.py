"""The example notebook runs from top to bottom on the sample of real digits."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest

from tests.training.conftest import idx_bytes, sample_digits
from vae import load

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[1] / "examples" / "article.ipynb"


def test_the_article_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in sample_digits().items():
        (raw / name).write_bytes(idx_bytes(array))
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("EPOCHS", "2")
    plt.switch_backend("agg")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    names: dict[str, Any] = {}
    images = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, NOTEBOOK, "exec"), names)
            images += len(plt.get_fignums())  # Jupyter shows the figures of a cell after it, and closes them
            plt.close("all")
    assert images == 5
    printed = capsys.readouterr().out
    assert "400 images of 1×28×28" in printed
    assert "epoch 2: loss " in printed
    assert load(tmp_path / "article.safetensors").training == {"recipe": "article", "epochs": 2}
