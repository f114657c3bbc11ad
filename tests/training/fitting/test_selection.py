"""The averaged weights, the epoch that is kept, and early stopping."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vae
from training.__main__ import main
from training.config.fit_config import FitConfig
from training.data.dataset import Dataset
from training.data.load import load
from training.fitting import epochs, fit, loop
from training.fitting.distributed import Processes
from training.fitting.initialization import new_model
from training.fitting.selection import best_epoch, describe_kept, is_stalled, kept_epoch
from training.metrics.elbo import Metrics, evaluate
from vae.noise import SEED

pytestmark = pytest.mark.slow

ALONE = Processes(0, 1, torch.device("cpu"))
CONFIG = FitConfig(epochs=3, hidden_dim=8, batch_size=50, optimizer="adam", warmup_steps=0, validation=0, ema=0.9)
RISING = ["--hidden-dim", "16", "--batch-size", "20", "--input-dropout", "0", "--validation", "100", "--device", "cpu"]
"""Options of a training that learns its 300 images by heart, so that the validation loss rises in the end."""


def records(*losses: float) -> list[dict[str, float]]:
    parts = ("validation_reconstruction_loss", "validation_kl_divergence")
    return [
        {"epoch": epoch, "validation_neg_elbo": loss + 1, **dict(zip(parts, (loss, 1), strict=True))}
        for epoch, loss in enumerate(losses, 1)
    ]


def history(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in out.with_suffix(".history.jsonl").read_text().splitlines()]


def start(data_dir: Path, out: Path, *options: str) -> dict[str, Any]:
    """Train and return the checkpoint's `training`."""
    assert main(["fit", "--data-dir", str(data_dir), "--out", str(out), *RISING, *options]) == 0
    return vae.load(out).training


@pytest.fixture(scope="module")
def train(data_dir: Path) -> Dataset:
    return load("mnist", data_dir)[0]


def test_the_average_follows_the_weights_with_its_decay(train: Dataset) -> None:
    state = loop.new_state(CONFIG, new_model(CONFIG, train), ALONE.device)
    expected = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    steps: list[float] = []

    def follow(*_: object) -> None:
        decay = min(CONFIG.ema, (1 + len(steps)) / (10 + len(steps)))
        steps.append(decay)
        for name, tensor in state.model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor

    state.optimizers[0].register_step_post_hook(follow)
    list(loop.train_epochs(CONFIG, state, train, ALONE))
    assert steps[0] == 0.1
    assert state.averaged_steps == len(steps) == 24
    assert state.evaluated is state.average
    for name, tensor in state.evaluated.state_dict().items():
        assert torch.allclose(tensor, expected[name], atol=1e-6), name
        assert not tensor.equal(state.model.state_dict()[name])
    assert loop.new_state(replace(CONFIG, ema=0), state.model, ALONE.device).evaluated is state.model


def test_the_average_does_not_change_the_training(train: Dataset) -> None:
    states = [
        loop.new_state(config, new_model(config, train), ALONE.device) for config in (CONFIG, replace(CONFIG, ema=0))
    ]
    for state in states:
        list(loop.train_epochs(CONFIG, state, train, ALONE))
    first, second = (state.model.state_dict() for state in states)
    assert all(first[name].equal(second[name]) for name in first)


def test_the_averaged_weights_are_measured_and_saved(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    training = start(data_dir, out, "--ema", "0.99", "--epochs", "2", "--keep", "last", "--measure", "full")
    state = torch.load(out.with_suffix(".state.pt"), weights_only=True)
    saved = vae.load(out)
    assert all(tensor.equal(state["average"][name]) for name, tensor in saved.model.state_dict().items())
    assert not saved.model.mean_layer.weight.equal(state["model"]["mean_layer.weight"])
    whole, test = load("mnist", data_dir)
    _, validation = whole.split(100 / len(whole))
    assert evaluate(saved.model, validation.images, draws=1, seed=SEED).neg_elbo == pytest.approx(
        training["last_epoch"]["validation_neg_elbo"], rel=1e-6
    )
    measured = evaluate(saved.model, test.images, draws=10, seed=SEED).neg_elbo
    assert measured == pytest.approx(saved.metrics["test_neg_elbo"], rel=1e-6)


def test_encoder_epochs_train_the_encoder_of_the_averaged_decoder(data_dir: Path, tmp_path: Path) -> None:
    joint, both = tmp_path / "joint.safetensors", tmp_path / "both.safetensors"
    options = ("--ema", "0.95", "--keep", "last", "--epochs", "2")
    start(data_dir, joint, *options)
    start(data_dir, both, *options, "--encoder-epochs", "1")
    before, after = (vae.load(path).model.state_dict() for path in (joint, both))
    for name, tensor in after.items():
        assert tensor.equal(before[name]) == name.startswith("decoder."), name


def test_the_epoch_of_the_lowest_validation_loss_is_kept() -> None:
    config, losses = FitConfig(), records(5, 3, 3, 4)
    assert kept_epoch(config, losses) is losses[1]  # the first of two
    assert describe_kept(config, losses) == "Kept epoch 2 of 4, with the lowest validation loss, 4.00."
    assert kept_epoch(replace(config, keep="last"), losses) is losses[3]
    assert describe_kept(replace(config, keep="last"), losses) == ""
    unmeasured = [{"epoch": 1.0}, {"epoch": 2.0}]
    assert best_epoch(config, unmeasured) is None
    assert kept_epoch(config, unmeasured) is unmeasured[1]


def test_the_validation_loss_weighs_the_kl_divergence_as_the_training_does() -> None:
    losses = records(10, 9)
    losses[1]["validation_kl_divergence"] = 1.5
    assert kept_epoch(FitConfig(), losses) is losses[1]
    assert kept_epoch(FitConfig(beta=4), losses) is losses[0]


def test_patience_counts_the_epochs_since_the_best() -> None:
    config = FitConfig(patience=2)
    assert [is_stalled(config, records(*losses)) for losses in ([3], [3, 4], [3, 4, 5], [3, 4, 3], [3, 4, 2])] == [
        False, False, True, True, False,
    ]  # fmt: skip
    assert not is_stalled(replace(config, patience=0), records(3, 4, 5))


def test_the_best_epoch_is_kept_and_patience_ends_the_training_for_good(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    options = ("--epochs", "60", "--lr-schedule", "constant", "--learning-rate", "0.02", "--patience", "2")
    training = start(data_dir, out, *options)
    lines = history(out)
    best = min(lines, key=lambda line: line["validation_neg_elbo"])
    assert len(lines) == best["epoch"] + 2 < 60
    assert (training["kept_epoch"], training["last_epoch"]) == (best, lines[-1])
    printed = capsys.readouterr().out
    assert f"Stopped after epoch {len(lines)}: 2 epochs had no lower validation loss." in printed
    loss = f"{best['validation_neg_elbo']:.2f}"
    assert f"Kept epoch {best['epoch']} of {len(lines)}, with the lowest validation loss, {loss}." in printed
    kept = f"{len(lines)} epochs, of which epoch {best['epoch']} was kept, "
    assert kept in out.with_suffix(".md").read_text()
    whole, _ = load("mnist", data_dir)
    _, validation = whole.split(100 / len(whole))
    model = vae.load(out).model
    assert evaluate(model, validation.images, draws=1, seed=SEED).neg_elbo == pytest.approx(
        best["validation_neg_elbo"], rel=1e-6
    )
    assert start(data_dir, out, *options, "--resume") == training  # the same epoch, no further one
    again = vae.load(out).model.state_dict()
    assert all(tensor.equal(again[name]) for name, tensor in model.state_dict().items())


def test_patience_without_held_out_images_is_an_error(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "a.safetensors"), "--validation", "0", "--patience", "1"]
    assert main(["fit", "--data-dir", str(data_dir), *out]) == 2
    assert "--patience needs held-out images: leave out --validation, or give more than 0." in capsys.readouterr().err


def test_an_epoch_that_is_not_kept_leaves_the_checkpoint_as_it_is(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = iter([200.0, 150.0, 160.0])

    def worse(*_: object, **__: object) -> Metrics:
        loss = next(losses, None)
        if loss is None:
            raise KeyboardInterrupt
        return Metrics(loss, 1.0)

    monkeypatch.setattr(epochs, "evaluate", worse)
    out = tmp_path / "a.safetensors"
    assert main(["fit", "--data-dir", str(data_dir), "--out", str(out), *RISING, "--epochs", "4"]) == 130
    assert f"{out} holds epoch 2, whole" in capsys.readouterr().err
    assert vae.load(out).training["last_epoch"]["epoch"] == 2
    assert [line["epoch"] for line in history(out)] == [1, 2, 3]


def test_the_test_images_are_measured_once_at_the_end(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    for module, name in ((epochs, "evaluate"), (fit, "measure"), (fit, "latent_means")):
        function = getattr(module, name)

        def recorded(*arguments: Any, name: str = name, function: Any = function, **options: Any) -> Any:
            measured.append(name)
            sizes = {each if name != "measure" else "all" for each in map(len, arguments[1:2])}
            assert name != "evaluate" or sizes == {99}, sizes  # the validation images
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, recorded)
    start(data_dir, tmp_path / "a.safetensors", "--epochs", "2")
    assert measured == ["evaluate", "evaluate", "measure", "latent_means"]
