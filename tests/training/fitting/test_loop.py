import json
import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import vae
from tests.training import processes
from training.__main__ import main
from training.config.fit_config import FitConfig
from training.data.builtin import load_builtin
from training.data.dataset import Dataset, to_pixels
from training.fitting import loop
from training.fitting.distributed import Processes
from training.fitting.initialization import new_model
from vae.modules import ResidualBlock

pytestmark = pytest.mark.slow

TINY = FitConfig(
    epochs=2, hidden_dim=8, batch_size=50, optimizer="adam", warmup_steps=0, input_dropout=0, validation=0, device="cpu"
)


ALONE = Processes(0, 1, torch.device("cpu"))


def trained(config: FitConfig, train: Dataset) -> vae.VAE:
    state = loop.new_state(config, new_model(config, train), ALONE.device)
    assert len(list(loop.train_epochs(config, state, train, ALONE))) == config.epochs
    return state.model


@pytest.fixture(scope="module")
def train(data_dir: Path) -> Dataset:
    return load_builtin("mnist", data_dir, train=True)


def test_hidden_pixels_are_zero_and_the_others_scaled_up() -> None:
    x = torch.ones(100, 1, 28, 28)
    hidden = loop.drop_pixels(x, 0.25, torch.Generator().manual_seed(0), len(x), ALONE)
    assert hidden.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert hidden.mean().item() == pytest.approx(1, abs=0.01)
    assert hidden.equal(loop.drop_pixels(x, 0.25, torch.Generator().manual_seed(0), len(x), ALONE))
    assert loop.drop_pixels(x, 0, torch.Generator(), len(x), ALONE) is x


def test_pixels_are_hidden_from_the_encoder_alone(train: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Tensor] = []
    targets: list[Tensor] = []
    encode, measure = vae.VAE.encode, vae.VAE.reconstruction_loss

    def seen_encode(model: vae.VAE, x: Tensor) -> tuple[Tensor, Tensor]:
        encoded.append(x)
        return encode(model, x)

    def seen_measure(model: vae.VAE, decoded: Tensor, x: Tensor) -> Tensor:
        targets.append(x)
        return measure(model, decoded, x)

    monkeypatch.setattr(vae.VAE, "encode", seen_encode)
    monkeypatch.setattr(vae.VAE, "reconstruction_loss", seen_measure)
    trained(replace(TINY, epochs=1, input_dropout=0.5), train)
    for seen, target in zip(encoded, targets, strict=True):
        assert seen[seen != 0].equal(2 * target[seen != 0])
        assert (seen[target != 0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    images = torch.cat(targets)
    assert images.sum().item() == pytest.approx(to_pixels(train.images).sum().item(), rel=1e-5)  # each once, whole


def test_output_bias_starts_at_the_mean_image(train: Dataset) -> None:
    mean_image = to_pixels(train.images).mean(0)
    inked = mean_image > 0.01
    start = torch.sigmoid(new_model(TINY, train).state_dict()["decoder.4.bias"]).view(1, 28, 28)
    assert torch.allclose(start[inked], mean_image[inked], atol=1e-5)
    assert start.isfinite().all()
    plain = new_model(replace(TINY, init_output_bias=False), train).state_dict()["decoder.4.bias"]
    assert plain.abs().max().item() <= 1 / math.sqrt(TINY.width)  # torch's own


def test_the_blocks_of_a_resnet_begin_as_the_identity(train: Dataset) -> None:
    model = new_model(FitConfig(architecture="resnet", hidden_dim=8), train)
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 6  # one at each of three resolutions, down and up
    x = torch.randn(2, 8, 5, 5)
    assert all(block(x).equal(x) for block in blocks)


def test_the_seed_decides_everything_and_nothing_else_does(train: Dataset) -> None:
    config = replace(TINY, epochs=1, input_dropout=0.1)
    first = trained(config, train).state_dict()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = trained(config, train).state_dict()
    assert torch.get_rng_state().equal(state)  # the global generator is left as it was
    assert all(first[name].equal(again[name]) for name in first)
    other = trained(replace(config, seed=1), train).state_dict()
    assert not any(first[name].equal(other[name]) for name in first)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_training_lowers_the_loss(optimizer: str, train: Dataset) -> None:
    config = replace(TINY, optimizer=optimizer, epochs=4, learning_rate=1e-2, init_output_bias=False)
    state = loop.new_state(config, new_model(config, train), ALONE.device)
    losses = [each.sums.sum().item() / each.seen for each in loop.train_epochs(config, state, train, ALONE)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 20
    assert state.epoch == 4


def test_fit_writes_a_checkpoint_with_its_options_and_losses(fitted: Path, data_dir: Path) -> None:
    checkpoint = vae.load(fitted)
    assert checkpoint.metrics.keys() >= {"test_neg_elbo", "test_reconstruction_loss", "test_kl_divergence"}
    training = checkpoint.training
    assert training.items() >= {
        "recipe": "default", "epochs": 2, "epochs_finished": 2, "seed": 0, "dataset": "mnist", "training_images": 301,
        "validation": 100, "torch": torch.__version__,
    }.items()  # fmt: skip
    figures = training["last_epoch"]
    for part in ("train", "validation"):
        parts = figures[f"{part}_reconstruction_loss"] + figures[f"{part}_kl_divergence"]
        assert figures[f"{part}_neg_elbo"] == pytest.approx(parts)
    assert training["seconds"] > 0
    assert str(data_dir) not in json.dumps(training)
    assert str(fitted.parent) not in json.dumps(training)


def test_fit_writes_the_latents_beside_the_checkpoint(fitted: Path, data_dir: Path) -> None:
    checkpoint = vae.load(fitted)
    latents = vae.LatentSet.load(fitted, checkpoint.sha256)
    test = load_builtin("mnist", data_dir, train=False)
    assert latents is not None
    assert np.array_equal(latents.label, test.labels)
    assert np.allclose(latents.mean, checkpoint.model.encode(to_pixels(test.images))[0], atol=1e-5)
    assert {path.name for path in fitted.parent.iterdir()} == {
        ".small.safetensors.lock",
        *(f"small.{kind}" for kind in ("safetensors", "latents.safetensors", "state.pt", "history.jsonl", "md")),
        "small.config.yaml",
    }


def test_fit_prints_its_data_its_options_and_each_epoch(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--preset", "article", "--hidden-dim", "8", "--epochs", "2", "--device", "cpu"]
    assert main([*command, "--data-dir", str(data_dir), "--out", str(tmp_path / "a.safetensors")]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[0] == "Training on mnist: 400 images of 1×28×28, pixels 0 to 255, read as 0 to 1."
    assert lines[2] == "Recipe article: 2 epochs in batches of 128 on cpu."
    assert lines[3] == "Adam: learning rate 0.001, 13,566 parameters."
    assert [line.split("   ")[0] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert lines[-2].startswith("test: -ELBO ")
    assert "epoch 2/2: 100%" in output.err
    assert "images/s, loss " in output.err


def test_the_loss_of_the_bar_is_what_is_minimised(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path / "a.safetensors"), "--hidden-dim", "8", "--epochs", "1", "--device", "cpu"]
    assert main(["fit", "--data-dir", str(data_dir), *options, "--beta", "4"]) == 0
    bars = re.findall(r"loss ([\d.]+), reconstruction ([\d.]+), KL ([\d.]+)", capsys.readouterr().err)
    loss, reconstruction, kl = map(float, bars[-1])
    assert loss == pytest.approx(reconstruction + 4 * kl, abs=0.03)
    assert kl > 0.01


def test_an_interrupt_leaves_the_last_finished_epoch(data_dir: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out" / "long.safetensors", tmp_path / "log"
    out.parent.mkdir()
    vae.LatentSet(np.zeros((1, 3), np.float32), np.zeros(1, np.int64)).save(out, "of an older checkpoint")
    command = ["fit", "--epochs", "1000000", "--validation", "0", "--data-dir", str(data_dir), "--out", str(out)]
    history = out.with_suffix(".history.jsonl")
    with processes.start(log, main, [*command, "--device", "cpu", "--hidden-dim", "8"]) as process:
        processes.wait_until(lambda: history.exists() and history.read_bytes().count(b"\n") >= 3)
        assert process.pid
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
        assert process.exitcode == 130
    epoch = vae.load(out).training["epochs_finished"]
    assert epoch >= 2
    assert f"Interrupted: {out} holds epoch {epoch}, whole" in log.read_text()
    assert "Traceback" not in log.read_text()
    left = {path.name for path in out.parent.iterdir()}
    kept = {*(f"long.{kind}" for kind in ("safetensors", "state.pt", "history.jsonl", "config.yaml"))}
    assert left == kept | {".long.safetensors.lock"}  # no part of a file, no old latents


def test_an_interrupt_in_the_first_epoch_writes_no_checkpoint(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train_step", interrupted)
    out = tmp_path / "a.safetensors"
    assert main(["fit", "--data-dir", str(data_dir), "--out", str(out), "--validation", "0"]) == 130
    assert "Interrupted: no epoch was finished, no checkpoint was written." in capsys.readouterr().err
    assert not out.exists()


def test_a_loss_that_is_not_finite_ends_the_training(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    options = ["--learning-rate", "1e20", "--warmup-steps", "0", "--hidden-dim", "8", "--validation", "0"]
    assert main(["fit", "--data-dir", str(data_dir), "--out", str(out), *options]) == 1
    printed = capsys.readouterr().err
    assert "lower --learning-rate. Now no epoch was finished, no checkpoint was written." in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "status", "advice"),
    [
        (["--device", "abacus"], 2, "--device is abacus, which cannot be used here; auto or cpu can."),
        (["--latent-dim", "1000000000"], 2, "takes at least 18,507 GiB of memory to train; cpu has"),
        (["--hidden-dim", "10000000000000000000"], 2, "--hidden-dim 10000000000000000000 takes at least"),
        (["--validation", "400"], 2, "must be less than the 400 training images"),
        (["--validation", "0", "--out", "{file}/a.safetensors"], 1, "file cannot be written"),
    ],
)
def test_options_that_cannot_be_used_are_an_error(
    *, options: list[str], status: int, advice: str, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    paths = ["--data-dir", str(data_dir), "--out", str(tmp_path / "a.safetensors")]
    assert main(["fit", *paths, *(option.replace("{file}", str(file)) for option in options)]) == status
    assert advice in capsys.readouterr().err
