"""The example notebook runs from top to bottom on the sample of real digits."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.training.conftest import idx_bytes, sample_digits
from vae import load

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[1] / "examples" / "article.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook client's own dependencies
def test_the_article_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in sample_digits().items():
        (raw / name).write_bytes(idx_bytes(array))
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("EPOCHS", "2")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    said = "".join(output.get("text", "") for output in outputs)
    assert "400 images of 1×28×28" in said
    assert "epoch 2: loss " in said
    assert load(tmp_path / "article.safetensors").training == {"recipe": "article", "epochs": 2}
