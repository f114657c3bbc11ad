"""Several processes train as one does."""

import json
import os
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.training import processes
from training.__main__ import main
from training.fitting.distributed import Processes
from training.metrics.elbo import Metrics

pytestmark = pytest.mark.slow

FIT = ["fit", "--optimizer", "adam", "--epochs", "2", "--hidden-dim", "16", "--batch-size", "33", "--device", "cpu"]
"""Adam, because Muon rounds to bfloat16, which makes the smallest difference grow."""


def history(checkpoint: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in checkpoint.with_suffix(".history.jsonl").read_text().splitlines()]


def torchrun(arguments: list[str]) -> None:
    """Launch two processes by what torchrun calls, but fork them in place of new interpreters."""
    config = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork")
    assert elastic_launch(config, train)(arguments) == {0: 0, 1: 0}


def train(arguments: list[str]) -> int:
    """Train in a child process, because only one of the two returns from `main`."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        status = main(arguments)
    finally:
        os._exit(status)


@pytest.mark.parametrize(
    "options",
    [
        ["--free-bits", "1", "--ema", "0.9", "--clip-grad-norm", "5", "--augment", "flip,crop", "--patience", "1"],
        ["--importance-samples", "3", "--encoder-epochs", "1", "--ema", "0.9"],
    ],
    ids=["objective", "importance"],
)
def test_two_processes_give_the_losses_of_one(options: list[str], images: NDArray[np.uint8], tmp_path: Path) -> None:
    np.save(tmp_path / "digits.npy", images)
    data = ["--dataset", f"npy:{tmp_path / 'digits.npy'}", "--data-dir", str(tmp_path / "data")]
    command = [*FIT, "--input-dropout", "0.2", *options, *data, "--out"]
    alone, together = tmp_path / "alone.safetensors", tmp_path / "together.safetensors"
    assert main([*command, str(alone)]) == 0
    log = tmp_path / "log"
    assert processes.run(log, torchrun, [*command, str(together), "--tensorboard"]) == 0, log.read_text()
    assert len(history(alone)) == len(history(together)) >= 2
    for one, two in zip(history(alone), history(together), strict=True):
        for name in one.keys() - {"seconds"}:
            assert two[name] == pytest.approx(one[name], rel=1e-5), name
    written = {path.name.partition(".")[2] for path in tmp_path.glob("together*")}
    assert written == {
        "safetensors",
        "latents.safetensors",
        "md",
        "state.pt",
        "history.jsonl",
        "config.yaml",
        "tensorboard",
    }
    assert list((tmp_path / "together.tensorboard").iterdir())


def torchrun_worse_and_worse(arguments: list[str]) -> None:
    losses = [Metrics(loss, 1.0) for loss in (200, 201, 202)]
    with mock.patch("training.fitting.epochs.evaluate", side_effect=losses):
        torchrun(arguments)


def test_all_processes_stop_after_the_same_epoch(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    command = [*FIT, "--epochs", "5", "--patience", "2", "--data-dir", str(data_dir), "--out", str(out)]
    log = tmp_path / "log"
    assert processes.run(log, torchrun_worse_and_worse, command) == 0, log.read_text()
    assert [line["epoch"] for line in history(out)] == [1, 2, 3]


def leave(rank: int) -> None:
    try:
        sys.stdout.write("before\n")
        Processes(rank, 2, torch.device("cpu")).leave()
        sys.stdout.write("after\n")
    finally:
        sys.stdout.write("finalised\n")


@pytest.mark.parametrize(
    ("rank", "lines"), [(0, ["before", "after", "finalised"]), (1, ["before"])], ids=["main", "other"]
)
def test_all_but_the_main_process_leave_without_finalising_python(rank: int, lines: list[str], tmp_path: Path) -> None:
    assert processes.run(tmp_path / "log", leave, rank) == 0
    assert (tmp_path / "log").read_text().splitlines() == lines
