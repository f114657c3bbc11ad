import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
from huggingface_hub import ModelCard

import vae
from training.__main__ import _parse
from training.fitting.model_card import card, command, remove_card, write_card
from training.metrics.report import as_markdown, as_text
from vae.config import Likelihood
from vae.hub import METRICS, TASK

FIGURES = {
    "train_images": 60000, "train_neg_elbo": 122.221, "train_squared_error": 0.026754, "train_active_units": 2,
    "test_images": 10000, "test_neg_elbo": 125.894, "test_kl_divergence": 3.0, "test_kl_divergence_1": 2.0,
    "test_kl_divergence_2": 1.0, "test_active_units": 2, "test_squared_error": 0.02838, "test_neighbour_accuracy": 0.9,
    "test_neg_importance_weighted_bound": 121.5, "importance_samples": 5000,
}  # fmt: skip


def test_the_table_has_both_sets_and_units_in_columns() -> None:
    lines = as_text(FIGURES).splitlines()
    table = lines[: lines.index("")]
    assert [line.split() for line in table[:3]] == [
        ["test", "training", "unit"],
        ["images", "10,000", "60,000"],
        ["−ELBO", "125.89", "122.22", "nats", "per", "image"],
    ]
    ends = {line.index(word) + len(word) for line, word in zip(table, ("test", "10,000", "125.89"), strict=False)}
    assert len(ends) == 1
    assert any(line.split()[-6:] == ["5,000", "121.50", "–", "nats", "per", "image"] for line in table)
    assert "| 10-nearest-neighbour accuracy | 0.900 | – | share of images |" in as_markdown(FIGURES)


def test_the_report_explains_that_metrics_of_grey_pixels_are_not_densities() -> None:
    for written in (as_text(FIGURES), as_markdown(FIGURES)):
        assert "take grey pixels for probabilities of a Bernoulli decoder" in written
        assert "no negative log-densities" in written


def test_the_report_explains_the_losses_of_each_likelihood() -> None:
    notes = {as_text(FIGURES, likelihood).splitlines()[-2] for likelihood in get_args(Likelihood)}
    assert len(notes) == 4
    assert any("8-bit pixels" in note and "bits/dim" in note for note in notes)


def test_of_many_dimensions_those_of_largest_divergence_are_shown() -> None:
    figures = {f"test_kl_divergence_{dimension}": float(dimension) for dimension in range(1, 21)}
    printed = as_text(figures)
    assert [dimension for dimension in range(1, 21) if f"dimension {dimension} " in printed] == list(range(5, 21))
    assert "--json has the other 4." in printed


def test_the_card_has_every_option_and_the_file_that_it_belongs_to(fitted: Path) -> None:
    checkpoint = vae.load(fitted)
    written = fitted.with_suffix(".md").read_text()
    assert written == card(checkpoint)
    assert checkpoint.sha256 in written
    assert "301 training images of mnist" in written
    options = _parse(shlex.split(command(checkpoint))[1:])
    assert options.config.to_metadata().items() <= checkpoint.training.items()
    assert command(checkpoint) in written


@pytest.mark.parametrize("options", [[], ["--preset", "article"], ["--preset", "article", "--validation", "-1"]])
def test_the_command_omits_options_that_were_not_set(options: list[str], tmp_path: Path) -> None:
    config = _parse(["fit", *options]).config.with_network(vae.VAEConfig(hidden_dim=16), given=[])
    path = tmp_path / "new.safetensors"
    vae.save(path, vae.VAE(vae.VAEConfig(hidden_dim=16)), training=config.to_metadata(), metrics={})
    words = shlex.split(command(vae.load(path)))
    assert _parse(words[1:]).config.to_metadata() == config.to_metadata()
    assert not {"--image-size", "--adam-learning-rate"} & set(words)
    assert ("--validation" in words) == ("article" in options)


def test_the_hub_reads_the_metadata_of_the_card(fitted: Path) -> None:
    checkpoint = vae.load(fitted)
    data: Any = ModelCard(fitted.with_suffix(".md").read_text()).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("unknown", "vae-service", TASK)
    assert data.tags == ["vae", "variational-autoencoder"]
    assert data.datasets == ["ylecun/mnist"]
    assert data.model_name == "small"
    results = {result.metric_type: result for result in data.eval_results}
    assert results.keys() == set(data.metrics) == METRICS.keys()
    assert results["test_neg_elbo"].metric_value == pytest.approx(checkpoint.metrics["test_neg_elbo"], abs=1e-6)
    assert (results["test_neg_elbo"].dataset_type, results["test_neg_elbo"].dataset_split) == ("ylecun/mnist", "test")


def test_the_card_of_an_earlier_version_is_replaced(fitted: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("<!-- Written by vae-train fit; without this line it is never replaced. -->\n# a\n")
    assert write_card(path, vae.load(fitted))
    assert path.read_text() == card(vae.load(fitted))


def test_a_file_that_is_not_a_model_card_is_not_changed(fitted: Path, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# Mine\n")
    assert not write_card(path, vae.load(fitted))
    remove_card(path)
    assert path.read_text() == "# Mine\n"
    path.unlink()
    remove_card(path)
    assert write_card(path, vae.load(fitted))
    assert write_card(path, vae.load(fitted))
    remove_card(path)
    assert not path.exists()
