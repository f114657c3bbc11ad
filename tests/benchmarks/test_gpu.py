import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from tests.training.conftest import idx_bytes, sample_digits

pytestmark = pytest.mark.slow


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", *options])
    gpu.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"torch finds no GPU here: .* --device cpu --quick\.$"):
        run(monkeypatch)


def test_it_trains_serves_compares_and_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in sample_digits().items():
        (raw / name).write_bytes(idx_bytes(array))
    run(monkeypatch, "--device", "cpu", "--quick", "--data-dir", str(tmp_path))
    page = capsys.readouterr().out
    assert "\n| highest | " in page
    assert "\n| log-variance | " in page
    assert "\n| 4096 | " in page
    assert "\n| bfloat16 | no | yes | 2 | " in page
