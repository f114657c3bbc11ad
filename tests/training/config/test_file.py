"""--config and --print-config."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.training.config.test_command_line import ANOTHER, NEEDED
from training.__main__ import _parse, main
from training.config.file import read_config, to_yaml
from training.config.fit_config import FitConfig
from training.config.presets import PRESETS


def parse(path: Path, content: str, *arguments: str) -> FitConfig:
    path.write_text(content)
    config: FitConfig = _parse(["fit", "--config", str(path), *arguments]).config
    return config


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.yaml"


@pytest.mark.parametrize("name", [each.name for each in fields(FitConfig)])
def test_every_option_can_be_in_the_file(name: str, path: Path) -> None:
    value = ANOTHER[name]
    base = PRESETS["article"] if name == "preset" else FitConfig()
    config = replace(base, **NEEDED.get(name, {}) | {name: value})
    assert parse(path, to_yaml(config)) == config
    assert getattr(config, name) == value


@pytest.mark.parametrize("config", [*PRESETS.values(), FitConfig(dataset="folder:B\udcfccher/ä", hidden_dim=7, seed=3)])
def test_the_printed_configuration_is_read_as_the_same(config: FitConfig, path: Path) -> None:
    assert parse(path, to_yaml(config)) == config


def test_the_command_line_overrides_the_file_and_the_file_the_preset(path: Path) -> None:
    config = parse(path, "preset: article\nepochs: 3\nbatch_size: 7\n", "--batch-size", "9")
    assert config == replace(PRESETS["article"], epochs=3, batch_size=9)


def test_options_of_the_file_count_as_given(path: Path) -> None:
    path.write_text("latent_dim: 5\n")
    options = _parse(["fit", "--config", str(path), "--hidden-dim", "9"])
    assert {"latent_dim", "hidden_dim"} <= vars(options).keys()
    assert "hidden_layers" not in options


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", {}),
        ("hidden_dim: null", {"hidden_dim": None}),
        ("learning_rate: 1e-3", {"learning_rate": 1e-3}),  # a text in YAML 1.1
        ("beta: 2", {"beta": 2.0}),
        ("validation: -1", {"validation": -1}),
        ("tensorboard: yes", {"tensorboard": True}),
    ],
)
def test_values_have_the_types_of_their_options(content: str, expected: dict[str, Any], path: Path) -> None:
    path.write_text(content)
    assert read_config(path) == expected
    assert [type(value) for value in read_config(path).values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("batch-size: 3", " has the key batch-size, which is no option; do you mean batch_size?"),
        ("zebra: 3", " has the key zebra, which is no option; vae-train fit --print-config prints all of them."),
        ("1: 3", " has the key 1, which is no option; vae-train fit --print-config prints all of them."),
        ("epochs: 3.5", ": epochs is 3.5; a whole number is expected."),
        ("epochs: true", ": epochs is True; a whole number is expected."),
        ("epochs:", ": epochs is None; a whole number is expected."),
        ("out:", ": out is None; a path is expected."),
        ("learning_rate: fast", ": learning_rate is 'fast'; a number is expected."),
        ("learning_rate: -1", ": learning_rate is -1.0; it must be above 0."),
        ("resume: 1", ": resume is 1; true or false is expected."),
        ("dataset: [mnist]", ": dataset is ['mnist']; a text is expected."),
        ("preset: mine", ": preset is mine; it must be one of: default, article"),
        ("optimizer: sgd", ": optimizer is sgd; it must be one of: adam, muon."),
        ("- epochs", " holds no options; lines such as `epochs: 20` are expected."),
        ("epochs: 3\nbeta: [", " is not YAML in line 2; lines such as `epochs: 20` are expected."),
        ("epochs: \x00", " is not YAML; lines such as `epochs: 20` are expected."),
    ],
)
def test_a_bad_file_is_an_error_that_names_it(
    content: str, sentence: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"vae-train fit: --config {path}{sentence}")


def test_a_missing_file_is_an_error(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(path)])
    assert f"--config {path} cannot be read: No such file or directory." in capsys.readouterr().err


def test_print_config_prints_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--preset", "article", "--epochs", "3", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["batch_size"] == 128
    assert "# network\narchitecture: mlp\nhidden_dim: null\n" in printed
    assert list(tmp_path.iterdir()) == []
