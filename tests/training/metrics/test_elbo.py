import json
import math
from pathlib import Path

import pytest
import torch

import vae
from tests.training.conftest import IMPORTANCE_SAMPLES
from training.__main__ import main
from training.data.builtin import load_builtin
from training.data.dataset import to_pixels
from training.data.load import load
from training.metrics.elbo import Metrics, evaluate, latent_means, squared_error
from training.metrics.report import as_markdown, as_text
from vae.noise import image_noise


@pytest.fixture(scope="module")
def images(data_dir: Path) -> torch.Tensor:
    return load_builtin("mnist", data_dir, train=False).images


def test_the_losses_of_a_model_of_zeros_are_known(images: torch.Tensor) -> None:
    model = vae.VAE(vae.VAEConfig(hidden_dim=4))
    for parameter in model.parameters():
        parameter.data.zero_()
    figures = evaluate(model, images, draws=2, seed=0)
    assert figures.reconstruction_loss == pytest.approx(784 * math.log(2))  # every pixel one half
    assert figures.kl_divergence == pytest.approx(0)  # q(z|x) is the prior
    model.get_parameter("mean_layer.bias").data.fill_(2)
    assert evaluate(model, images, draws=2, seed=0).kl_divergence == pytest.approx(3 * 2**2 / 2)


def test_figures_are_averages_over_images_and_draws(fitted: Path, images: torch.Tensor) -> None:
    model = vae.load(fitted).model
    figures = evaluate(model, images, draws=3, seed=5)
    noise = torch.from_numpy(image_noise(images.numpy(), 3, (3,), 5))
    x = to_pixels(images)
    mean, log_variance = model.encode(x)
    per_image = torch.zeros(len(x))
    for own in noise.unbind(1):
        z = mean + own * torch.exp(log_variance / 2)
        per_image += vae.reconstruction_loss(model.decode(z), x) / 3
    assert figures.reconstruction_loss == pytest.approx(per_image.mean().item(), rel=1e-5)
    assert figures.kl_divergence == pytest.approx(vae.kl_divergence(mean, log_variance).mean().item(), rel=1e-5)
    assert figures.neg_elbo == figures.reconstruction_loss + figures.kl_divergence


def test_the_squared_error_is_that_of_the_posterior_mean(fitted: Path, images: torch.Tensor) -> None:
    model = vae.load(fitted).model
    x = to_pixels(images)
    decoded = torch.sigmoid(model.decode(model.encode(x)[0])).double()
    assert squared_error(model, images) == pytest.approx((decoded - x).square().mean().item(), rel=1e-5)


def test_the_seed_decides(fitted: Path, images: torch.Tensor) -> None:
    model = vae.load(fitted).model
    once, again, other = (evaluate(model, images, draws=1, seed=seed) for seed in (0, 0, 1))
    assert once == again
    assert once != other


def test_more_images_than_a_batch_are_all_counted(fitted: Path, images: torch.Tensor) -> None:
    model = vae.load(fitted).model
    many = images.repeat(6, 1, 1, 1)  # 1,200
    assert latent_means(model, many).shape == (1200, 3)
    one, six = evaluate(model, images, draws=1, seed=0), evaluate(model, many, draws=1, seed=0)
    assert six.as_dict() == pytest.approx(one.as_dict(), rel=1e-5)  # an image's noise does not depend on its place


def test_fit_measures_the_validation_set_as_evaluate(fitted: Path, data_dir: Path) -> None:
    checkpoint = vae.load(fitted)
    _, validation = load("mnist", data_dir, None)[0].split(checkpoint.training["data"]["validation_share"])
    expected = evaluate(checkpoint.model, validation.images, draws=1, seed=0).as_dict("validation_")
    last_epoch = checkpoint.training["last_epoch"]
    assert {name: last_epoch[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_noise_that_is_given_is_used(fitted: Path, images: torch.Tensor) -> None:
    model, many = vae.load(fitted).model, images.repeat(6, 1, 1, 1)
    noise = torch.from_numpy(image_noise(many.numpy(), 2, (3,), 7))
    expected = evaluate(model, many, draws=2, seed=7)
    assert evaluate(model, many, draws=2, seed=0, noise=noise) == expected


def test_metrics_are_described_in_words() -> None:
    assert Metrics(130.25, 7.5).describe() == "-ELBO 137.75 = reconstruction 130.25 + KL 7.50"


def test_evaluate_prints_what_fit_measured(fitted: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data-dir", str(data_dir), "--importance-samples", str(IMPORTANCE_SAMPLES), "--device", "cpu"]
    assert main(["evaluate", str(fitted), *options]) == 0
    printed = capsys.readouterr().out
    checkpoint = vae.load(fitted)
    assert printed == f"small on mnist\n{as_text(checkpoint.metrics)}\n"
    assert as_markdown(checkpoint.metrics) in fitted.with_suffix(".md").read_text()
    assert main(["evaluate", str(fitted), *options, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {name: answer[name] for name in checkpoint.metrics} == pytest.approx(checkpoint.metrics, abs=1e-4)
    assert (answer["sha256"], answer["images"], answer["draws"], answer["seed"]) == (checkpoint.sha256, 200, 10, 0)
    assert answer["train_images"] == 301  # without those held out


def test_no_importance_samples_leave_the_bound_out(
    fitted: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(fitted), "--data-dir", str(data_dir), "--importance-samples", "0", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert not [name for name in answer if "importance" in name]
    with pytest.raises(SystemExit):
        main(["evaluate", str(fitted), "--importance-samples", "-1"])
    assert "'-1' is not an integer of 0 or more" in capsys.readouterr().err


def test_the_seed_of_evaluate(fitted: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["evaluate", str(fitted), "--data-dir", str(data_dir), "--importance-samples", "2", "--json", "--seed"]
    answers = []
    for seed in ("1", "1", "2"):
        assert main([*options, seed]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    for name in ("test_neg_elbo", "train_neg_elbo", "test_neg_importance_weighted_bound"):
        assert answers[0][name] != answers[2][name]
    with pytest.raises(SystemExit):
        main([*options, str(2**64)])
    assert "'18446744073709551616' is not an integer from 0 to 2**64 - 1" in capsys.readouterr().err


def test_evaluate_takes_the_articles_state_dict(
    fitted: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = vae.load(fitted)
    torch.save(checkpoint.model.state_dict(), tmp_path / "variational_autoencoder.pt")
    path = tmp_path / "variational_autoencoder.pt"
    assert main(["evaluate", str(path), "--data-dir", str(data_dir), "--importance-samples", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["test_neg_elbo"] == pytest.approx(checkpoint.metrics["test_neg_elbo"], abs=1e-4)


def test_a_missing_checkpoint_is_an_error(tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "none.safetensors"), "--data-dir", str(data_dir)]) == 1
    assert "none.safetensors cannot be read" in capsys.readouterr().err


def test_a_checkpoint_for_other_images_is_an_error(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rgb.safetensors"
    vae.save(path, vae.VAE(vae.VAEConfig(image_shape=(3, 8, 8), hidden_dim=4)), training={}, metrics={})
    assert main(["evaluate", str(path), "--data-dir", str(data_dir)]) == 1
    assert "takes images of 3×8×8; those of mnist are 1×28×28: give another --dataset." in capsys.readouterr().err
