"""Epochs that train the encoder alone, on augmented images."""

import json
from pathlib import Path

import pytest
import torch

import vae
from training.__main__ import main
from training.data.dataset import to_pixels
from training.data.load import load
from training.fitting.augmentation import NUMBERS, SHIFT, UNCHANGED, random_affine


def numbers_for(count: int, **chosen: float) -> torch.Tensor:
    """Numbers for no augmentation except in `chosen`."""
    numbers = torch.full((count, NUMBERS), 0.5)
    numbers[:, 6] = 1
    for name, value in chosen.items():
        numbers[:, ("angle", "right", "down", "wider", "higher", "slant", "as_it_is").index(name)] = value
    return numbers


@pytest.fixture(scope="module")
def images(data_dir: Path) -> torch.Tensor:
    return to_pixels(load("mnist", data_dir)[0].images)


def centres(images: torch.Tensor) -> torch.Tensor:
    """Centres of the ink, (N, 2): right and down, in pixels."""
    along = torch.arange(28.0)
    ink = images.sum((1, 2, 3))
    return torch.stack([(images.sum((1, 2)) @ along) / ink, (images.sum((1, 3)) @ along) / ink], 1)


def test_the_middle_of_all_numbers_leaves_an_image_as_it_is(images: torch.Tensor) -> None:
    assert torch.allclose(random_affine(images, numbers_for(400)), images, atol=1e-5)


def test_a_share_of_the_images_is_not_changed(images: torch.Tensor) -> None:
    numbers = torch.rand(400, NUMBERS, generator=torch.Generator().manual_seed(0))
    alone = (random_affine(images, numbers) == images).flatten(1).all(1)
    assert alone.equal(numbers[:, 6] < UNCHANGED)


def test_images_move(images: torch.Tensor) -> None:
    moved = centres(random_affine(images, numbers_for(400, right=1))) - centres(images)
    assert moved[:, 0].mean().item() == pytest.approx(-SHIFT * 14, abs=0.1)
    assert moved[:, 1].abs().mean().item() < 0.1


def test_images_turn_and_scale(images: torch.Tensor) -> None:
    turned = random_affine(random_affine(images, numbers_for(400, angle=1)), numbers_for(400, angle=0))
    assert (turned - images).abs().mean() < (random_affine(images, numbers_for(400, angle=1)) - images).abs().mean()
    inks = [
        random_affine(images, numbers_for(400, wider=w, higher=w)).sum((1, 2, 3)).mean().item() for w in (0, 0.5, 0.999)
    ]
    assert inks == sorted(inks, reverse=True)


def test_the_decoder_is_frozen_while_the_encoder_is_trained(fitted: Path, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "refined.safetensors"
    options = ["--epochs", "0", "--encoder-epochs", "2", "--validation", "100", "--device", "cpu"]
    assert main(["fit", "--data-dir", str(data_dir), "--out", str(out), "--init-from", str(fitted), *options]) == 0
    before, after = vae.load(fitted), vae.load(out)
    for name, tensor in after.model.state_dict().items():
        same = tensor.equal(before.model.state_dict()[name])
        assert same == name.startswith("decoder."), name
    assert after.training["started_from"]["sha256"] == before.sha256
    assert after.training["started_from"]["training"]["epochs"] == 2


@pytest.mark.parametrize(
    ("epochs", "same"), [(["--epochs", "1"], False), (["--epochs", "0", "--encoder-epochs", "1"], True)]
)
def test_the_scale_is_frozen_with_the_decoder(epochs: list[str], same: bool, data_dir: Path, tmp_path: Path) -> None:
    first, out = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    vae.save(first, vae.VAE(vae.VAEConfig(hidden_dim=8, likelihood="gaussian")), training={}, metrics={})
    options = ["--init-from", str(first), *epochs, "--device", "cpu"]
    assert main(["fit", "--data-dir", str(data_dir), "--out", str(out), *options]) == 0
    scales = [vae.load(path).model.state_dict()["likelihood.log_scale"] for path in (first, out)]
    assert scales[0].equal(scales[1]) == same


def test_both_kinds_of_epochs_follow_each_other(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.safetensors"
    options = ["--epochs", "2", "--encoder-epochs", "1", "--hidden-dim", "8", "--batch-size", "40", "--device", "cpu"]
    assert main(["fit", "--data-dir", str(data_dir), "--out", str(out), *options]) == 0
    history = [json.loads(line) for line in out.with_suffix(".history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2, 3]
    rates = [line["learning_rate"] for line in history]
    assert rates[2] < 2e-3


def test_a_checkpoint_of_other_images_cannot_be_started_from(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rgb.safetensors"
    vae.save(path, vae.VAE(vae.VAEConfig(image_shape=(3, 8, 8), hidden_dim=4)), training={}, metrics={})
    out = ["--out", str(tmp_path / "a.safetensors"), "--init-from", str(path)]
    assert main(["fit", "--data-dir", str(data_dir), *out]) == 2
    assert "--init-from takes images of 3×8×8; the data set's are 1×28×28." in capsys.readouterr().err
