"""Augmented images, and epochs that train the encoder alone on them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vae
from training.__main__ import main
from training.config.fit_config import FitConfig
from training.data.dataset import to_pixels
from training.data.load import load
from training.fitting import loop
from training.fitting.augmentation import (
    FLIP_CROP_NUMBERS,
    NUMBERS,
    SHIFT,
    UNCHANGED,
    random_affine,
    random_flip_crop,
)
from training.fitting.distributed import Processes
from training.fitting.initialization import new_model
from training.fitting.loop import augmentation_numbers


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


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 8), (1, 2)])
def test_a_crop_is_a_part_of_the_reflected_image(height: int, width: int) -> None:
    pictures = torch.randint(256, (50, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    numbers = torch.rand(50, FLIP_CROP_NUMBERS, generator=torch.Generator().manual_seed(1))
    cropped = random_flip_crop(pictures, numbers, {"crop"})
    assert cropped.dtype == torch.uint8
    up, left = height // 8, width // 8
    padded = np.pad(pictures.numpy(), ((0, 0), (0, 0), (up, up), (left, left)), mode="reflect")
    for image, crop, (_, down, right) in zip(padded, cropped, numbers.tolist(), strict=True):
        y, x = int(down * (2 * up + 1)), int(right * (2 * left + 1))
        assert np.array_equal(crop, image[:, y : y + height, x : x + width])


def test_half_of_the_images_are_mirrored() -> None:
    pictures = torch.arange(400 * 12, dtype=torch.int64).view(400, 1, 3, 4)
    numbers = augmentation_numbers(FitConfig(augment="flip"), 0, 400)
    flipped = random_flip_crop(pictures, numbers, {"flip"})
    mirrored = (flipped == pictures.flip(3)).flatten(1).all(1)
    assert (flipped == pictures).flatten(1).all(1).equal(~mirrored)
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_an_augmentation_depends_on_seed_and_epoch_alone() -> None:
    config = FitConfig(augment="flip,crop")
    numbers = augmentation_numbers(config, 3, 10)
    assert numbers.equal(augmentation_numbers(config, 3, 10))
    assert not numbers.equal(augmentation_numbers(config, 4, 10))
    assert not numbers.equal(augmentation_numbers(replace(config, seed=1), 3, 10))


def test_a_training_augments_each_image_by_its_own_numbers(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FitConfig(epochs=1, hidden_dim=8, batch_size=70, optimizer="adam", augment="crop")
    train, _ = load("mnist", data_dir)
    taken: list[tuple[torch.Tensor, torch.Tensor]] = []

    def recorded(images: torch.Tensor, numbers: torch.Tensor, augmentations: frozenset[str]) -> torch.Tensor:
        assert augmentations == {"crop"}
        taken.append((images, numbers))
        return torch.zeros_like(images)

    trained: list[torch.Tensor] = []
    monkeypatch.setattr(loop, "random_flip_crop", recorded)
    monkeypatch.setattr(loop, "train_step", lambda *arguments, **_: trained.append(arguments[3]))
    alone = Processes(0, 1, torch.device("cpu"))
    list(loop.train_epochs(config, loop.new_state(config, new_model(config, train), alone.device), train, alone))
    order = loop.epoch_order(config, 0, len(train))
    images, numbers = (torch.cat(each) for each in zip(*taken, strict=True))
    assert images.equal(train.take(order))
    assert numbers.equal(loop.augmentation_numbers(config, 0, len(train))[order])
    assert not torch.cat(trained).any()


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
