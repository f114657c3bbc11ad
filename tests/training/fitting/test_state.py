"""A training that was interrupted and resumed ends with the same tensors, to the bit."""

import json
import os
import signal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training import processes
from training.__main__ import main
from training.config.fit_config import FitConfig
from training.data.dataset import Dataset
from training.data.load import load
from training.fitting import loop
from training.fitting.distributed import Processes
from training.fitting.initialization import new_model
from training.fitting.loop import new_state, train_epochs
from training.fitting.state import TrainingError, TrainingState

pytestmark = pytest.mark.slow

ALONE = Processes(0, 1, torch.device("cpu"))
CONFIG = FitConfig(
    epochs=2, encoder_epochs=1, hidden_dim=8, batch_size=30, warmup_steps=5, input_dropout=0.1, optimizer="muon",
    free_bits=0.1, kl_warmup_epochs=1, augment="flip,crop", clip_grad_norm=1, ema=0.9,
)  # fmt: skip


class Cut(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def train(data_dir: Path) -> Dataset:
    return load("mnist", data_dir)[0]


def fresh(train: Dataset) -> TrainingState:
    return new_state(CONFIG, new_model(CONFIG, train), ALONE.device)


def tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    models = (state.model, state.evaluated)
    return {
        f"{part} {name}": tensor.clone()
        for part, each in enumerate(models)
        for name, tensor in each.state_dict().items()
    }


@pytest.fixture(scope="module")
def whole(train: Dataset) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Tensors after a training without interruption, and the losses of its epochs."""
    state = fresh(train)
    sums = [each.sums.clone() for each in train_epochs(CONFIG, state, train, ALONE)]
    return tensors(state), sums


@pytest.mark.parametrize("steps", [1, 13, 14, 15, 30, 31, 41])
def test_resumed_after_any_step_it_ends_with_the_same_tensors(
    steps: int,
    whole: tuple[dict[str, torch.Tensor], list[torch.Tensor]],
    train: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, expected_sums = whole
    path = tmp_path / "state.pt"
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1)  # after each step
    saves = 0
    save = TrainingState.save

    def save_and_cut(state: TrainingState, to: Path, config: FitConfig) -> None:
        nonlocal saves
        save(state, to, config)
        saves += 1
        if saves == steps:
            raise Cut

    monkeypatch.setattr(TrainingState, "save", save_and_cut)
    with pytest.raises(Cut):
        list(train_epochs(CONFIG, fresh(train), train, ALONE, path))
    resumed = fresh(train)
    torch.manual_seed(steps)  # the global generator has no influence
    resumed.resume(path, CONFIG)
    sums = [each.sums.clone() for each in train_epochs(CONFIG, resumed, train, ALONE, path)]
    assert all(expected[name].equal(tensor) for name, tensor in tensors(resumed).items())
    assert len(sums) in (1, 2, 3)
    assert all(one.equal(other) for one, other in zip(reversed(expected_sums), reversed(sums), strict=False))


def test_the_best_weights_are_resumed(train: Dataset, tmp_path: Path) -> None:
    state, resumed = fresh(train), fresh(train)
    state.best = {name: torch.ones_like(tensor) for name, tensor in state.model.state_dict().items()}
    state.stopped = True
    state.save(tmp_path / "state.pt", CONFIG)
    resumed.resume(tmp_path / "state.pt", CONFIG)
    assert resumed.stopped
    assert all(tensor.eq(1).all() for tensor in resumed.load_kept().state_dict().values())


def test_a_resumed_resnet_ends_with_the_same_tensors(train: Dataset, tmp_path: Path) -> None:
    """Its weights and the moments of its optimizers have their channels last in memory."""
    config = FitConfig(architecture="resnet", hidden_dim=8, epochs=2, batch_size=200, warmup_steps=2, device="cpu")

    def begin() -> TrainingState:
        return new_state(config, new_model(config, train), ALONE.device)

    state, resumed = begin(), begin()
    epochs = train_epochs(config, state, train, ALONE, tmp_path / "state.pt")
    next(epochs)
    next(epochs)  # the state of the first epoch is saved before the second begins
    resumed.resume(tmp_path / "state.pt", config)
    assert (resumed.epoch, state.epoch) == (1, 2)
    list(train_epochs(config, resumed, train, ALONE))
    assert all(tensor.equal(tensors(resumed)[name]) for name, tensor in tensors(state).items())


def fit_and_die(arguments: list[str]) -> None:
    """Train, and kill this process in the third epoch."""
    train_step, steps = loop.train_step, count()

    def die(*arguments: Any, **options: Any) -> None:
        train_step(*arguments, **options)
        if next(steps) == 30:  # of 14 steps per epoch
            os.kill(os.getpid(), signal.SIGKILL)

    loop.train_step = die
    main(arguments)


def test_killed_and_resumed_the_command_writes_the_same_checkpoint(data_dir: Path, tmp_path: Path) -> None:
    options = ["--epochs", "4", "--hidden-dim", "16", "--batch-size", "28", "--device", "cpu", "--input-dropout", "0.1"]
    options += ["--ema", "0.9", "--augment", "crop", "--patience", "3"]
    command = ["fit", "--data-dir", str(data_dir), *options, "--out"]
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert main([*command, str(whole)]) == 0
    assert processes.run(tmp_path / "log", fit_and_die, [*command, str(cut)]) == -signal.SIGKILL
    assert [line["epoch"] for line in history(cut)] == [1, 2]
    assert main([*command, str(cut), "--resume"]) == 0
    expected, resumed = load_file(whole), load_file(cut)
    assert all(expected[name].equal(resumed[name]) for name in expected)
    assert history(whole) == history(cut)
    assert [line["epoch"] for line in history(cut)] == [1, 2, 3, 4]


def history(path: Path) -> list[dict[str, float]]:
    lines = path.with_suffix(".history.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def test_resume_refuses_another_training(fitted: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--hidden-dim", "16", "--epochs", "2", "--validation", "100", "--device", "cpu", "--batch-size", "7"]
    assert main(["fit", "--data-dir", str(data_dir), "--out", str(fitted), "--resume", *options]) == 2
    assert "with batch_size 256, not 7: give the options that it was started with" in capsys.readouterr().err


def test_resume_of_a_damaged_state_is_an_error(tmp_path: Path, train: Dataset) -> None:
    path = tmp_path / "state.pt"
    state = fresh(train)
    state.save(path, CONFIG)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Exception, match="cannot be read as a training's state; start without --resume"):
        fresh(train).resume(path, CONFIG)


def test_resume_without_a_state_starts_from_the_beginning(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "new.safetensors")
    assert (
        main(["fit", "--data-dir", str(data_dir), "--out", out, "--epochs", "1", "--hidden-dim", "4", "--resume"]) == 0
    )
    assert "new.state.pt to resume: starting from the first step." in capsys.readouterr().out


def test_a_loss_that_is_not_finite_leaves_the_last_good_state(train: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    state = fresh(train)
    epochs = train_epochs(CONFIG, state, train, ALONE, path)
    next(epochs)

    @torch.no_grad()
    def spoil(*_: object) -> None:
        state.model.mean_layer.weight.fill_(torch.nan)

    state.optimizers[0].register_step_post_hook(spoil)
    with pytest.raises(TrainingError, match=r"not finite at step 15: lower --learning-rate"):
        next(epochs)
    kept = torch.load(path, weights_only=True)
    assert kept["progress"]["epoch"] == 1
    assert kept["model"]["mean_layer.bias"].isfinite().all()


def test_a_state_within_an_epoch_is_not_replaced_by_one_that_is_not_finite(
    train: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1)  # after each step
    path = tmp_path / "state.pt"
    state = fresh(train)

    @torch.no_grad()
    def spoil(*_: object) -> None:
        if state.position == 2:
            state.model.mean_layer.weight.fill_(torch.nan)

    state.optimizers[0].register_step_post_hook(spoil)
    with pytest.raises(TrainingError, match=r"not finite in epoch 1: lower --learning-rate"):
        next(train_epochs(CONFIG, state, train, ALONE, path))
    kept = torch.load(path, weights_only=True)
    assert kept["progress"]["position"] == 2
    assert kept["model"]["mean_layer.bias"].isfinite().all()
