"""Pictures of a folder are decoded once; errors name the path of the picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.data import folder
from training.data.dataset import NO_LABEL, DataError
from training.data.load import load


def write(path: Path, size: tuple[int, int], colour: int | tuple[int, int, int], mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twenty pictures of 8×6 in two sub-folders, each of a colour of its own."""
    root = tmp_path / "pictures"
    for number in range(20):
        write(root / ("cats" if number % 2 else "dogs") / f"{number}.png", (8, 6), (number, 2 * number, 255 - number))
    return root


def test_every_picture_occurs_once_with_its_label(pictures: Path, tmp_path: Path) -> None:
    train, test = load(f"folder:{pictures}", tmp_path)
    assert len(train) + len(test) == 20
    assert len(test)
    assert train.image_shape == (3, 6, 8)
    seen = []
    for dataset in (train, test):
        for image, label in zip(dataset.images, dataset.labels, strict=True):
            red, green, blue = image[:, 0, 0].tolist()
            assert (green, blue) == (2 * red, 255 - red)
            assert image.flatten(1).unique(dim=1).shape == (3, 1)
            assert label == 1 - red % 2  # cats come before dogs
            seen.append(red)
    assert sorted(seen) == list(range(20))
    assert seen != sorted(seen)


def test_the_classes_are_named_by_their_folders(pictures: Path, tmp_path: Path) -> None:
    train, test = load(f"folder:{pictures}", tmp_path)
    assert train.classes == test.classes == ("cats", "dogs")
    assert train.to(torch.device("cpu")).hold_out(2)[1].classes == ("cats", "dogs")


def test_the_split_is_the_same_each_time_and_nothing_is_decoded_twice(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = load(f"folder:{pictures}", tmp_path)
    monkeypatch.setattr(folder.PictureDataset, "__getitem__", None)
    again, _ = load(f"folder:{pictures}", tmp_path)
    assert first.images.equal(again.images)
    assert len(list((tmp_path / "decoded").iterdir())) == 1


def test_a_changed_picture_is_decoded_again(pictures: Path, tmp_path: Path) -> None:
    load(f"folder:{pictures}", tmp_path)
    write(pictures / "dogs" / "0.png", (8, 6), (200, 200, 200))
    train, test = load(f"folder:{pictures}", tmp_path)
    assert any((dataset.images == 200).flatten(1).all(1).any() for dataset in (train, test))


def test_workers_decode_many(tmp_path: Path) -> None:
    for number in range(3 * folder.WORKER_BATCH):
        write(tmp_path / "many" / f"{number}.png", (2, 2), number % 256, "L")
    train, test = load(f"folder:{tmp_path / 'many'}", tmp_path)
    assert train.image_shape == (1, 2, 2)
    assert torch.cat([train.images, test.images])[:, 0, 0, 0].sort().values.tolist() == list(
        range(3 * folder.WORKER_BATCH)
    )
    assert train.labels.unique().tolist() == [NO_LABEL]


def test_image_size_scales_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    (tmp_path / "p").mkdir()
    for number in range(2):
        wide[0, 0] = number
        Image.fromarray(wide).save(tmp_path / "p" / f"{number}.png")
    train, _ = load(f"folder:{tmp_path / 'p'}", tmp_path, 4)
    assert train.image_shape == (3, 4, 4)
    assert train.images.unique().tolist() == [255]


def test_mixed_sizes_ask_for_an_image_size(pictures: Path, tmp_path: Path) -> None:
    write(pictures / "dogs" / "zoom.jpg", (9, 6), (1, 2, 3))
    with pytest.raises(DataError, match=r"1\.png is 8×6 and .*zoom\.jpg is 9×6: give --image-size"):
        load(f"folder:{pictures}", tmp_path)
    assert load(f"folder:{pictures}", tmp_path, 6)[0].image_shape == (3, 6, 6)


@pytest.mark.parametrize("count", [2, 3 * folder.WORKER_BATCH])
def test_the_error_of_an_unreadable_picture_names_it_and_no_file_is_left(count: int, tmp_path: Path) -> None:
    for number in range(count):
        write(tmp_path / "p" / f"{number}.png", (8, 8), number % 256, "L")
    whole = (tmp_path / "p" / "1.png").read_bytes()
    (tmp_path / "p" / "1.png").write_bytes(whole[:50])  # the header is there, the pixels are not
    with pytest.raises(DataError, match=r"^[^\n]*1\.png is not a whole image: its pixels .*\. Repair or remove it\.$"):
        load(f"folder:{tmp_path / 'p'}", tmp_path)
    assert not list((tmp_path / "decoded").iterdir())
    (tmp_path / "p" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png is not an image: none of PNG, "):
        load(f"folder:{tmp_path / 'p'}", tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"nothing holds 0 pictures \(.png, "):
        load(f"folder:{tmp_path / 'nothing'}", tmp_path)


def test_a_full_disk_is_an_error(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DataError, match=r"uint8 cannot be written: No space left on device\. Free the disk"):
        load(f"folder:{pictures}", tmp_path)
    assert not list((tmp_path / "decoded").iterdir())
