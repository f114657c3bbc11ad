"""A training that starts from a checkpoint trains its network."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import vae
from training.__main__ import _parse, main
from training.config.fit_config import FitConfig
from training.config.options import NETWORK, ConfigError
from training.fitting.model_card import command

CONV = vae.VAEConfig("conv", (1, 28, 28), hidden_dim=8, latent_dim=5, likelihood="logistic", scale="pixel")
NAMES = [name for name in NETWORK if name != "latent_shape"]


@pytest.fixture
def first(tmp_path: Path) -> Path:
    path = tmp_path / "first.safetensors"
    vae.save(path, vae.VAE(CONV), training={"seed": 3}, metrics={})
    return path


def start(first: Path, data_dir: Path, *options: str) -> int:
    paths = ["--data-dir", str(data_dir), "--out", str(first.with_name("second.safetensors"))]
    return main(["fit", "--init-from", str(first), "--epochs", "1", "--device", "cpu", *paths, *options])


@pytest.mark.parametrize("options", [[], ["--latent-dim", "5", "--architecture", "conv", "--hidden-dim", "0"]])
def test_the_network_is_the_checkpoints(
    options: list[str], first: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(first, data_dir, *options) == 0
    assert f"Starting from {first}: conv, hidden width 8, 5 latent dimensions." in capsys.readouterr().out
    second = vae.load(first.with_name("second.safetensors"))
    assert second.model.config == CONV
    assert {name: second.training[name] for name in NAMES} == {name: getattr(CONV, name) for name in NAMES}
    again = shlex.split(command(second))
    assert again[again.index("--init-from") + 1] == "first.safetensors"
    config = _parse(again[1:]).config
    assert {name: getattr(config, name) for name in NAMES} == {name: getattr(CONV, name) for name in NAMES}
    assert "first.safetensors" in first.with_name("second.md").read_text()


def test_options_that_differ_are_named(first: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(first, data_dir, "--latent-dim", "3", "--architecture", "mlp", "--hidden-dim", "8") == 2
    assert (
        f"--init-from {first} has --architecture conv, --latent-dim 5; --architecture mlp, --latent-dim 3 was given"
    ) in capsys.readouterr().err
    assert not first.with_name("second.safetensors").exists()


def test_from_python_every_option_is_given() -> None:
    config = FitConfig(architecture="conv", latent_dim=5, likelihood="logistic", scale="pixel")
    assert config.with_network(CONV, NETWORK) == replace(config, hidden_dim=8, hidden_layers=2)
    with pytest.raises(ConfigError, match="has --latent-dim 5; --latent-dim 3 was given"):
        replace(config, latent_dim=3).with_network(CONV, NETWORK)


def test_the_checkpoint_records_the_default_width(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    options = [
        "--epochs",
        "1",
        "--batch-size",
        "400",
        "--optimizer",
        "adam",
        "--device",
        "cpu",
        "--architecture",
        "conv",
    ]
    assert main(["fit", "--data-dir", str(data_dir), "--out", str(out), *options]) == 0
    assert vae.load(out).training["hidden_dim"] == 64
