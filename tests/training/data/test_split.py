"""Images are held out by their content alone, whatever other images there are and whatever they are called."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.config.fit_config import FitConfig
from training.config.options import ConfigError
from training.data.dataset import DataError, Dataset
from training.data.load import load
from training.data.split import fingerprint, positions


def pixels(dataset: Dataset) -> set[bytes]:
    return {image.numpy().tobytes() for image in dataset.images}


def parts(name: str, data_dir: Path, image_size: int | None = None) -> tuple[set[bytes], set[bytes], set[bytes]]:
    """Training, validation and test images."""
    train, test = load(name, data_dir, image_size)
    train, validation = train.split(FitConfig().validation_share(len(train)))
    return pixels(train), pixels(validation), pixels(test)


def noise(count: int, seed: int = 0, channels: int = 1) -> np.ndarray:
    shape = (count, 4, 4, 3) if channels == 3 else (count, 4, 4)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_pictures(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")


def test_added_renamed_and_moved_pictures_move_no_other(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    write_pictures(root / "cats", noise(200))
    before = parts(f"folder:{root}", tmp_path)
    assert [len(part) for part in before] == pytest.approx([165, 15, 20], abs=15)
    write_pictures(root / "ants", noise(200, 1))
    for number in range(0, 200, 3):
        (root / "cats" / f"{number}.png").rename(root / f"{200 - number}.png")
    after = parts(f"folder:{root}", tmp_path)
    assert sum(map(len, after)) == 400
    assert all(old < new for old, new in zip(before, after, strict=True))
    for number in range(1, 200, 3):
        (root / "cats" / f"{number}.png").unlink()
    fewer = parts(f"folder:{root}", tmp_path)
    assert all(old < new for old, new in zip(fewer, after, strict=True))


def test_added_rows_of_an_array_move_no_other(tmp_path: Path) -> None:
    images = noise(400)
    np.save(tmp_path / "few.npy", images[100:300])
    np.save(tmp_path / "many.npy", images[::-1])
    few, many = (parts(f"npy:{tmp_path / name}.npy", tmp_path) for name in ("few", "many"))
    assert all(old < new for old, new in zip(few, many, strict=True))


def test_an_array_of_floats_is_split_like_its_pixels(tmp_path: Path) -> None:
    np.save(tmp_path / "bytes.npy", noise(50))
    np.save(tmp_path / "floats.npy", noise(50) / np.float32(255))
    bytes_, floats = (load(f"npy:{tmp_path / name}.npy", tmp_path) for name in ("bytes", "floats"))
    assert all(one.images.equal(other.images) for one, other in zip(bytes_, floats, strict=True))
    assert bytes_[0].origin == floats[0].origin


def test_equal_pictures_are_in_the_same_part(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        write_pictures(tmp_path / "p" / name, noise(60))
    np.save(tmp_path / "p.npy", noise(60).repeat(2, 0))
    for name in ("folder:{}/p", "npy:{}/p.npy"):
        train, test = load(name.format(tmp_path), tmp_path)
        train, validation = train.split(1 / 12)
        assert len(train) + len(validation) + len(test) == 120
        assert not pixels(train) & pixels(test)
        assert not pixels(train) & pixels(validation)


def test_another_size_and_a_picture_in_colour_leave_the_parts_as_they_are(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", noise(100))
    grey = load(f"folder:{tmp_path / 'p'}", tmp_path)
    write_pictures(tmp_path / "p" / "colour", noise(1, channels=3))
    mixed = load(f"folder:{tmp_path / 'p'}", tmp_path, 2)
    assert sum(map(len, mixed)) == 101
    assert sum(len(mixed[part]) == len(grey[part]) for part in (0, 1)) == 1


def test_validation_images_of_mnist_are_chosen_by_content(data_dir: Path) -> None:
    train, _ = load("mnist", data_dir)
    kept, held_out = train.split(1 / 4)
    backwards = Dataset("mnist", train.images.flip(0), train.labels.flip(0))
    _, same = backwards.split(1 / 4)
    assert pixels(held_out) == pixels(same)
    assert sorted(held_out.labels.tolist()) == sorted(same.labels.tolist())
    assert len(kept) + len(held_out) == 400
    assert len(held_out) == pytest.approx(100, abs=30)
    assert not held_out.images.equal(train.images[-len(held_out) :])
    assert [len(part) for part in train.split(0)] == [400, 0]


def test_what_is_held_out_twice_is_held_out_of_all_that_is_left(data_dir: Path) -> None:
    whole, _ = load("mnist", data_dir)
    rest, first = whole.split(0.5)
    assert rest.positions is not None
    assert 0 <= rest.positions.min() < 0.05
    assert 0.95 < rest.positions.max() < 1
    assert len(rest.split(0.5)[1]) == pytest.approx(len(rest) / 2, abs=30)
    assert len(first) == pytest.approx(200, abs=40)


def test_mapped_images_are_split_without_a_copy(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", noise(300))
    train, test = load(f"npy:{tmp_path / 'images.npy'}", tmp_path)
    train, validation = train.split(1 / 12)
    addresses = {part.images.untyped_storage().data_ptr() for part in (train, validation, test)}
    assert len(addresses) == 1


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_small_set_has_both_parts(count: int, tmp_path: Path) -> None:
    for seed in range(10):
        np.save(tmp_path / f"{seed}.npy", noise(count, seed))
        train, test = load(f"npy:{tmp_path / f'{seed}.npy'}", tmp_path)
        assert len(train) >= 1 <= len(test)


def test_pictures_that_are_all_the_same_are_an_error(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", noise(1).repeat(5, 0))
    with pytest.raises(DataError, match="All images of p are equal: at least 2 different ones are expected"):
        load(f"folder:{tmp_path / 'p'}", tmp_path)


def test_not_all_can_be_held_out() -> None:
    with pytest.raises(ConfigError, match="must be less than the 400 training images"):
        FitConfig(validation=400).validation_share(400)
    assert FitConfig(validation=100).validation_share(400) == 0.25
    assert FitConfig(validation=0).validation_share(400) == 0
    assert FitConfig().validation_share(400) == FitConfig().validation_share(10**6) == 1 / 12


def test_positions_are_spread_evenly_and_fingerprints_are_of_the_images_in_any_order() -> None:
    images = torch.from_numpy(noise(1000)[:, None])
    where = positions(images)
    assert where.dtype == torch.float64
    assert torch.histc(where.float(), 4, 0, 1).tolist() == pytest.approx([250] * 4, abs=50)
    assert fingerprint(where) == fingerprint(where.flip(0)) == fingerprint(positions(images))
    assert fingerprint(where) != fingerprint(where[1:])
    assert fingerprint(where[:500], where[500:]) != fingerprint(where[500:], where[:500])


def test_renamed_pictures_are_the_same_data_set(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", noise(30))
    before, _ = load(f"folder:{tmp_path / 'p'}", tmp_path)
    shutil.move(tmp_path / "p", tmp_path / "q")
    (tmp_path / "q" / "3.png").rename(tmp_path / "q" / "zebra.png")
    after, _ = load(f"folder:{tmp_path / 'q'}", tmp_path)
    assert before.images.equal(after.images)
    assert before.origin == after.origin
    write_pictures(tmp_path / "q", noise(1, 7))
    assert load(f"folder:{tmp_path / 'q'}", tmp_path)[0].origin.fingerprint != after.origin.fingerprint
