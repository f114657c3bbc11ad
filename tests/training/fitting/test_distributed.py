"""Several processes train as one does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FIT = ["fit", "--optimizer", "adam", "--epochs", "2", "--hidden-dim", "16", "--batch-size", "33", "--device", "cpu"]
"""Adam: Muon rounds to bfloat16 on the way, which lets the smallest difference grow."""


def run(launcher: list[str], data_dir: Path, out: Path, *options: str) -> list[dict[str, float]]:
    command = [sys.executable, "-m", *launcher, *FIT, "--data-dir", str(data_dir), "--out", str(out), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in out.with_suffix(".history.jsonl").read_text().splitlines()]


def test_two_processes_give_the_losses_of_one(data_dir: Path, tmp_path: Path) -> None:
    alone = run(["training"], data_dir, tmp_path / "alone.safetensors", "--input-dropout", "0.2")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "training"]
    together = run(launcher, data_dir, tmp_path / "together.safetensors", "--input-dropout", "0.2", "--tensorboard")
    assert len(alone) == len(together) == 2
    for one, two in zip(alone, together, strict=True):
        for name in one.keys() - {"seconds"}:
            assert two[name] == pytest.approx(one[name], rel=1e-5), name
    written = {path.name.partition(".")[2] for path in tmp_path.glob("together*")}
    assert written == {"safetensors", "latents.safetensors", "md", "state.pt", "history.jsonl", "tensorboard"}
    assert list((tmp_path / "together.tensorboard").iterdir())


@pytest.mark.parametrize(("rank", "said"), [(0, ["goes on", "Python ends"]), (1, [])])
def test_all_but_the_first_leave_without_pythons_own_end(rank: int, said: list[str]) -> None:
    steps = (
        "import atexit, torch",
        "from training.fitting.distributed import Processes",
        "atexit.register(print, 'Python ends')",
        f"Processes({rank}, 2, torch.device('cpu')).leave()",
        "print('goes on')",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(steps)], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == said
