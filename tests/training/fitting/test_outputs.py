"""The files of a training that is interrupted, fails or meets another training."""

import math
import resource
import time
from pathlib import Path

import pytest
import torch

import vae
from tests.training import processes
from training.__main__ import main
from training.config.fit_config import FitConfig
from training.config.options import ConfigError
from training.fitting import loop
from training.fitting.outputs import Outputs
from training.fitting.state import TrainingState

NETWORK = ["--hidden-dim", "8", "--validation", "0", "--warmup-steps", "0", "--device", "cpu"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


def start(data_dir: Path, out: Path, *options: str) -> int:
    return main(["fit", "--data-dir", str(data_dir), "--out", str(out), *NETWORK, *options])


@pytest.mark.parametrize(("write", "epoch"), [(1, 1), (2, 2), (3, 2)])  # the third one has the figures
def test_an_interrupt_while_a_checkpoint_is_written_prints_what_is_kept(
    write: int,
    epoch: int,
    data_dir: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    replace, written = Path.replace, 0

    def replace_and_interrupt(source: Path, target: Path) -> Path:
        nonlocal written
        replaced = replace(source, target)
        written += Path(target) == out
        if Path(target) == out and written == write:
            raise KeyboardInterrupt
        return replaced

    vae.save(out, vae.VAE(vae.VAEConfig(hidden_dim=4)), training={"last_epoch": {"epoch": 7}}, metrics={})
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace_and_interrupt)
        assert start(data_dir, out, "--epochs", "2") == 130
    without = "" if write == 3 else ", without figures and latents"
    printed = capsys.readouterr().err
    assert f"Interrupted: {out} holds epoch {epoch}, whole{without}. The same command with --resume goes on." in printed
    assert vae.load(out).training["epochs_finished"] == epoch
    assert start(data_dir, out, "--epochs", "2", "--resume") == 0
    assert vae.load(out).metrics


def test_an_interrupt_does_not_report_the_checkpoint_of_an_older_training(
    data_dir: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    vae.save(out, vae.VAE(vae.VAEConfig(hidden_dim=4)), training={"last_epoch": {"epoch": 7}}, metrics={})
    monkeypatch.setattr(vae, "save", interrupted)
    assert start(data_dir, out) == 130
    assert "Interrupted: no epoch was finished, no checkpoint was written." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoiled", "value", "subject"),
    [
        ("weight", math.nan, "A weight or the loss"),
        ("moment", math.inf, "A weight or the loss"),
        ("weight", 1e30, "The validation loss"),  # finite, but its square is not
    ],
)
def test_values_that_are_not_finite_replace_no_checkpoint(
    spoiled: str,
    value: float,
    subject: str,
    data_dir: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def spoiled_state(config: FitConfig, model: vae.VAE, device: torch.device) -> TrainingState:
        state = loop.new_state(config, model, device)
        adam = state.optimizers[0]

        @torch.no_grad()
        def spoil(*_: object) -> None:
            if (state.epoch, state.position) == (1, 1):  # the last of two steps: no loss is computed any more
                weight = model.mean_layer.weight
                (weight if spoiled == "weight" else adam.state[weight]["exp_avg"]).fill_(value)

        adam.register_step_post_hook(spoil)
        return state

    monkeypatch.setattr("training.fitting.fit.new_state", spoiled_state)
    assert start(data_dir, out, "--epochs", "3", "--validation", "100") == 1
    printed = capsys.readouterr().err
    assert f"{subject} is not finite in epoch 2: lower --learning-rate." in printed
    assert f"Now {out} holds epoch 1, whole, without figures and latents." in printed
    assert vae.load(out).training["epochs_finished"] == 1
    state = torch.load(out.with_suffix(".state.pt"), weights_only=True)
    assert state["progress"]["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert len(out.with_suffix(".history.jsonl").read_text().splitlines()) == 1


def test_the_error_of_a_full_disk_names_the_file(data_dir: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        assert start(data_dir, out, "--epochs", "1") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capsys.readouterr().err.endswith(f"{out} cannot be written or read: File too large.\n")


def test_two_trainings_do_not_write_the_same_files(
    data_dir: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Outputs(out).locked():
        assert start(data_dir, out) == 2
        printed = capsys.readouterr().err
        assert f"--out {out} is being written by another vae-train fit: wait for it, or give another file." in printed
        assert start(data_dir, out.with_name("b.safetensors"), "--epochs", "1") == 0
    assert not out.exists()
    assert start(data_dir, out, "--epochs", "1") == 0


def hold(out: Path, locked: Path) -> None:
    with Outputs(out).locked():
        locked.touch()
        time.sleep(60)


def test_a_killed_training_holds_no_lock(out: Path) -> None:
    locked = out.with_name("locked")
    with processes.start(out.with_name("log"), hold, out, locked):
        processes.wait_until(locked.exists)
        with pytest.raises(ConfigError, match="another vae-train fit"), Outputs(out).locked():
            pass
    with Outputs(out).locked():
        pass
