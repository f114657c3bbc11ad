"""`training.fit` from Python, and the configuration that repeats a training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vae
from tests.training.conftest import RAW_NAMES
from training import PRESETS, ConfigError, DataError, Dataset, FitConfig, FitResult, fit
from training.__main__ import main
from training.data.load import load
from training.data.split import TEST_SHARE

pytestmark = pytest.mark.slow

SMALL = FitConfig(measure="full", epochs=2, hidden_dim=8, warmup_steps=0, device="cpu", out=None)


@pytest.fixture(scope="module")
def dataset(digits: dict[str, NDArray[np.uint8]]) -> Dataset:
    return Dataset.from_arrays(digits[RAW_NAMES[0]], digits[RAW_NAMES[1]].astype(np.int64), name="digits")


@pytest.fixture(scope="module")
def result(dataset: Dataset) -> FitResult:
    return fit(SMALL, dataset)


def weights(model: vae.VAE) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


def test_the_result_has_model_metrics_and_history(result: FitResult, dataset: Dataset) -> None:
    assert result.model.config == vae.VAEConfig(hidden_dim=8)
    assert not result.model.training
    assert [record["epoch"] for record in result.history] == [1, 2]
    assert 0 < result.metrics["test_neg_elbo"] < 1000
    assert result.metrics["test_images"] == pytest.approx(TEST_SHARE * len(dataset), rel=0.5)
    assert "test_neighbour_accuracy" in result.metrics


def test_without_out_no_file_is_left(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fit(replace(SMALL, epochs=1), dataset)
    assert list(tmp_path.iterdir()) == []
    assert "Wrote" not in capsys.readouterr().out


def test_an_array_is_trained_on_as_its_npy_file(result: FitResult, digits: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "digits.npy", digits[RAW_NAMES[0]])
    out = tmp_path / "a.safetensors"
    of_file = fit(replace(SMALL, dataset=f"npy:{tmp_path}/digits.npy", data_dir=tmp_path, out=out))
    assert weights(of_file.model) == weights(result.model)
    assert of_file.metrics["test_neg_elbo"] == result.metrics["test_neg_elbo"]


def test_the_checkpoint_names_the_array(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    result = fit(replace(SMALL, epochs=1, out=out), dataset)
    checkpoint = vae.load(out)
    assert checkpoint.training["dataset"] == "npy:digits.npy"
    assert len(checkpoint.training["data"]["fingerprint"]) == 16
    assert weights(checkpoint.model) == weights(result.model)
    assert "--dataset npy:digits.npy" in out.with_suffix(".md").read_text()


def test_a_test_set_of_ones_own_is_measured(data_dir: Path) -> None:
    train, test = load("mnist", data_dir)
    ours = [Dataset.from_arrays(part.images, part.labels) for part in (train, test)]
    result = fit(replace(SMALL, epochs=1, measure="full"), *ours)
    assert result.metrics["test_images"] == len(test)
    named = fit(replace(SMALL, epochs=1, measure="full", data_dir=data_dir))
    assert weights(named.model) == weights(result.model)
    loaded = fit(replace(SMALL, epochs=1, measure="full"), train, test)
    assert loaded.metrics["test_neg_elbo"] == named.metrics["test_neg_elbo"]


def test_a_test_set_of_another_shape_is_an_error(dataset: Dataset) -> None:
    colour = Dataset.from_arrays(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="The test images are 3×8×8, the training images 1×28×28"):
        fit(SMALL, dataset, colour)


def test_a_network_that_was_not_given_is_the_checkpoints(dataset: Dataset, tmp_path: Path) -> None:
    vae.save(tmp_path / "a.safetensors", vae.VAE(vae.VAEConfig(hidden_dim=5, latent_dim=2)), training={}, metrics={})
    config = FitConfig(epochs=1, device="cpu", out=None, init_from=str(tmp_path / "a.safetensors"))
    assert fit(config, dataset).model.config.latent_dim == 2
    with pytest.raises(ConfigError, match="--latent-dim 2; --latent-dim 4 was given"):
        fit(replace(config, latent_dim=4), dataset)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains(name: str) -> None:
    preset = PRESETS[name]
    assert preset.preset == name
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (40, 32, 32, 3), np.uint8)
    result = fit(replace(preset, epochs=1, hidden_dim=8, device="cpu", out=None), Dataset.from_arrays(images))
    assert (result.model.config.architecture, result.model.config.latent_dim) == (
        preset.architecture,
        preset.latent_dim,
    )


def test_every_run_writes_the_configuration_that_repeats_it(data_dir: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    options = ["--epochs", "1", "--hidden-dim", "8", "--data-dir", str(data_dir), "--device", "cpu", "--resume"]
    assert main(["fit", *options, "--out", str(first)]) == 0
    written = tmp_path / "a.config.yaml"
    assert main(["fit", "--config", str(written), "--out", str(again)]) == 0
    assert weights(vae.load(first).model) == weights(vae.load(again).model)
    lines = written.read_text().replace("a.safetensors", "b.safetensors")
    assert (tmp_path / "b.config.yaml").read_text() == lines
    assert "resume: false\n" in lines


def test_interrupts_without_a_checkpoint_promise_none(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.fitting.fit.train_epochs", interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        fit(SMALL, dataset)
    assert raised.value.args == ()
