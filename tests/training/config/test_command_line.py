import json
from argparse import ArgumentParser
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from training.__main__ import main
from training.config.command_line import add_options, from_options, replace_old_flags
from training.config.fit_config import FitConfig
from training.config.options import GROUPS, OLD_NAMES, as_argument, flag
from training.config.presets import PRESETS

ANOTHER: dict[str, Any] = {
    "preset": "article",
    "data_dir": Path("elsewhere"),
    "out": Path("other.safetensors"),
    "dataset": "kmnist",
    "image_size": 32,
    "init_from": "other.safetensors",
    "epochs": 3,
    "encoder_epochs": 4,
    "batch_size": 7,
    "optimizer": "muon",
    "beta": 0.5,
    "free_bits": 0.25,
    "kl_warmup_epochs": 2,
    "posterior_samples": 4,
    "importance_samples": 5,
    "augment": "flip,crop",
    "precision": "bf16",
    "ema": 0.99,
    "keep": "last",
    "patience": 3,
    "clip_grad_norm": 10.0,
    "architecture": "conv",
    "tensorboard": True,
    "resume": True,
    "learning_rate": 0.5,
    "adam_learning_rate": 0.25,
    "lr_schedule": "constant",
    "warmup_steps": 9,
    "init_output_bias": False,
    "input_dropout": 0.25,
    "hidden_dim": 11,
    "hidden_layers": 5,
    "latent_dim": 2,
    "latent_shape": (8, 7, 7),
    "likelihood": "gaussian",
    "scale": "pixel",
    "validation": 13,
    "matmul_precision": "medium",
    "measure": "full",
    "device": "cpu",
    "seed": 17,
}

NEEDED: dict[str, dict[str, Any]] = {"latent_shape": {"architecture": "resnet"}, "scale": {"likelihood": "gaussian"}}
"""Options → others without which their value of ANOTHER is invalid."""


def parse(*arguments: str) -> FitConfig:
    parser = ArgumentParser()
    add_options(parser, arguments)
    return from_options(parser.parse_args(arguments))


def test_no_flag_gives_the_default_recipe() -> None:
    assert parse() == FitConfig() == PRESETS["default"]


@pytest.mark.parametrize("name", [each.name for each in fields(FitConfig) if each.name != "preset"])
def test_every_field_has_its_flag(name: str) -> None:
    changed = NEEDED.get(name, {}) | {name: ANOTHER[name]}
    arguments = []
    for each, value in changed.items():
        switch = {True: [flag(each)], False: ["--no-" + flag(each)[2:]]}
        arguments += switch[value] if isinstance(value, bool) else [flag(each), as_argument(value)]
    assert parse(*arguments) == replace(FitConfig(), **changed)


def test_help_names_every_flag_and_the_recipes_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--preset", "article", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert all(flag(each.name) in words for each in fields(FitConfig))
    assert "images per step (default: 128)" in words
    assert all(f" {heading}: --" in words for heading in GROUPS)
    assert "channels of the coarsest map (conv, resnet) (default: 392 for mlp, 64 for conv and resnet)" in words
    assert "(default: None)" not in words
    assert "(default: )" not in words


def test_every_option_is_listed_under_one_heading() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(
        each.name for each in fields(FitConfig)
    )


@pytest.mark.parametrize(
    ("name", "unset"),
    [
        ("image_size", 0), ("hidden_dim", 0), ("adam_learning_rate", 0.0), ("validation", -1), ("init_from", ""),
        ("latent_shape", ""), ("augment", ""), ("hidden_layers", 0),
    ],
)  # fmt: skip
def test_an_option_that_is_not_set_is_none_and_recorded_as_ever(name: str, unset: object) -> None:
    assert getattr(FitConfig(), name) is None
    assert parse(flag(name), str(unset)) == FitConfig()
    assert FitConfig().to_metadata().get(name, unset) == unset


def test_the_articles_recipe_is_the_articles() -> None:
    preset = parse("--preset", "article")
    assert (preset.epochs, preset.batch_size, preset.learning_rate, preset.lr_schedule) == (10, 128, 1e-3, "constant")
    assert (preset.warmup_steps, preset.init_output_bias, preset.input_dropout, preset.validation) == (0, False, 0.0, 0)
    assert (preset.architecture, preset.width, preset.latent_dim, preset.beta) == ("mlp", 392, 3, 1.0)


@pytest.mark.parametrize("order", [["--preset", "article", "--epochs", "2"], ["--epochs", "2", "--preset=article"]])
def test_a_flag_overrides_the_preset_in_any_order(order: list[str]) -> None:
    assert parse(*order) == replace(PRESETS["article"], epochs=2)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--epochs", "0"], "--epochs and --encoder-epochs are both 0"),
        (["--epochs", "-1"], "--epochs is -1; it must be 0 or more."),
        (["--epochs", "ten"], "'ten' is not a whole number, such as 10."),
        (["--batch-size", "0"], "1 or more"),
        (["--learning-rate", "-1"], "above 0"),
        (["--learning-rate", "nan"], "above 0"),
        (["--learning-rate", "inf"], "above 0"),
        (["--learning-rate", "fast"], "'fast' is not a number, such as 0.001."),
        (["--adam-learning-rate", "-1"], "--adam-learning-rate is -1.0; it must be 0 or more."),
        (["--optimizer", "sgd"], "one of: adam, muon"),
        (["--lr-schedule", "linear"], "--lr-schedule is linear; it must be one of: cosine, constant."),
        (["--warmup-steps", "-1"], "0 or more"),
        (["--input-dropout", "1"], "--input-dropout is 1.0; it must be at least 0 and below 1."),
        (["--hidden-dim", "-1"], "0 or more"),
        (["--hidden-layers", "101"], "from 0 to 100"),
        (["--hidden-layers", "3", "--architecture", "conv"], "--hidden-layers is for --architecture mlp and resnet"),
        (["--latent-shape", "8,7"], "'8,7' is not a shape C,h,w, such as 8,8,8."),
        (["--latent-shape", "8,x,7"], "'8,x,7' is not a shape C,h,w, such as 8,8,8."),
        (["--latent-shape", "8,0,7"], "--latent-shape is 8,0,7; it must be three numbers of 1 or more"),
        (["--latent-shape", "8,7,7", "--architecture", "conv"], "latents of conv are vectors: give --latent-dim."),
        (["--latent-shape", "8,7,7", "--architecture", "resnet", "--latent-dim", "8"], "exclude each other"),
        (["--latent-dim", "0"], "1 or more"),
        (["--validation", "-2"], "-1 or more"),
        (["--dataset", "imagenet"], "emnist, cifar10, folder:PATH, npy:PATH"),
        (["--architecture", "gan"], "one of: mlp, conv, resnet"),
        (["--likelihood", "normal"], "one of: bernoulli, continuous-bernoulli, gaussian, logistic."),
        (["--scale", "channel"], "one of: model, pixel."),
        (["--scale", "pixel"], "--scale pixel is for --likelihood gaussian and logistic; bernoulli has no scale."),
        (["--beta", "-1"], "0 or more"),
        (["--free-bits", "-1"], "--free-bits is -1.0; it must be 0 or more."),
        (["--kl-warmup-epochs", "-1"], "0 or more"),
        (["--kl-warmup-epochs", "11"], "--kl-warmup-epochs is 11; it must be at most the 10 of --epochs."),
        (["--importance-samples", "0"], "1 or more"),
        (["--importance-samples", "2", "--beta", "4", "--free-bits", "1"], "that --beta and --free-bits could change"),
        (["--importance-samples", "2", "--kl-warmup-epochs", "1"], "that --kl-warmup-epochs could change: leave out"),
        (["--importance-samples", "2", "--posterior-samples", "2"], "that --posterior-samples could change: leave out"),
        (["--posterior-samples", "0"], "1 or more"),
        (
            ["--augment", "flip,turn"],
            "--augment is flip,turn; it must be names out of flip, crop, separated by commas.",
        ),
        (["--precision", "fp16"], "one of: float32, bf16"),
        (["--ema", "1"], "--ema is 1.0; it must be at least 0 and below 1."),
        (["--clip-grad-norm", "inf"], "0 or more"),
        (["--keep", "first"], "one of: best, last"),
        (["--patience", "-1"], "0 or more"),
        (["--patience", "3", "--encoder-epochs", "1"], "--patience ends a training of the whole model: leave out"),
        (["--image-size", "-1"], "0 or more"),
        (["--matmul-precision", "low"], "one of: highest, high, medium"),
        (["--seed", "-1"], "from 0 to 2**63 - 1"),
        (["--out", "model.pt"], "ends in .safetensors"),
        (["--preset", "mine"], "--preset is mine; it must be one of: default, article"),
        (["--dropout", "0.1"], "unrecognized arguments: --dropout"),
    ],
)
def test_a_bad_value_is_an_error(arguments: list[str], advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments])
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert advice in printed
    assert "Traceback" not in printed


def test_metadata_is_json_without_paths_under_the_names_of_older_checkpoints() -> None:
    metadata = json.loads(json.dumps(FitConfig().to_metadata()))
    runtime_only = {"data_dir", "measure", "out", "resume", "init_from", "tensorboard", "device"}
    names = {each.name for each in fields(FitConfig)} - runtime_only
    assert metadata.keys() == {OLD_NAMES.get(name, name) for name in names}
    assert {"recipe", "decay", "output_bias"} <= metadata.keys()
    secret = FitConfig(dataset="folder:/home/someone/cats").to_metadata()["dataset"]
    assert secret == "folder:cats"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--recipe", "article"], ["--preset", "article"]),
        (["--decay=constant"], ["--lr-schedule", "constant"]),
        (["--start-from", "a.safetensors"], ["--init-from", "a.safetensors"]),
        (["--no-output-bias"], ["--no-init-output-bias"]),
    ],
)
def test_old_flags_work_with_a_warning(old: list[str], new: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(*replace_old_flags(old)) == parse(*new)
    assert f"is now called {new[0]}" in capsys.readouterr().err
