"""Walking a folder of pictures: links are followed, skipped files are counted."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vae
from training.__main__ import main
from training.data.dataset import DataError
from training.data.load import load
from training.data.tree import walk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty grey pictures in `cats`."""
    write(tmp_path / "pictures" / "cats", 20)
    return tmp_path / "pictures"


def write(folder: Path, count: int, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(np.random.default_rng(seed).integers(0, 256, (count, 4, 4), np.uint8)):
        Image.fromarray(image).save(folder / f"{number}.png")


def labels(root: Path, cache: Path) -> list[int]:
    """How many images there are with each label."""
    counts = np.zeros(3, int)
    for part in load(f"folder:{root}", cache):
        counts += np.bincount(part.labels.numpy(), minlength=3)
    return [int(count) for count in counts]


def test_classes_behind_links_are_read(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "many" / "deep", 30, 1)
    (root / "dogs").symlink_to(tmp_path / "elsewhere")
    (root / "emus").mkdir()
    (root / "emus" / "1.png").symlink_to(root / "cats" / "1.png")
    assert labels(root, tmp_path) == [20, 30, 1]


def test_loops_of_links_end_and_no_folder_is_read_twice(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "again").symlink_to(root)
    (root / "cats" / "up").symlink_to("..")
    (root / "ants").symlink_to(root / "cats")  # before it in the alphabet, yet the folder's own name counts
    (root / "itself").symlink_to("itself")
    assert labels(root, tmp_path) == [20, 0, 0]
    assert "3 links to folders that were read before, 1 without a suffix" in capsys.readouterr().err


def test_many_links_among_folders_are_followed_once(tmp_path: Path) -> None:
    for name in range(15):
        (tmp_path / str(name)).mkdir()
        for other in range(15):
            (tmp_path / str(name) / f"to{other}").symlink_to(tmp_path / str(other))
    assert sum(names is not None for _, names in walk(tmp_path)) == 16


def test_the_order_is_always_the_same(tmp_path: Path) -> None:
    for name in ("b/d", "b/c", "a/z", "a/y"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "x").symlink_to(tmp_path / "b" / "c")
    folders = [str(folder.relative_to(tmp_path)) for folder, _ in walk(tmp_path)]
    assert folders == [".", "a", "a/y", "a/z", "b", "b/c", "b/d", "a/x"]


def test_macos_metadata_is_skipped_and_counted(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        (root / "cats" / f"._{number}.png").write_bytes(b"\0\5\26\7 not a picture")
    assert labels(root, tmp_path) == [20, 0, 0]
    assert "5 ._* (metadata of macOS)" in capsys.readouterr().err


def test_other_files_are_skipped_and_counted(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.tiff", "b.TIFF", "c.tiff", "d", "e", "f.txt", "g.csv", "h.md", "i.xcf"):
        (root / "cats" / name).write_bytes(b"x")
    (root / "broken.png").symlink_to(root / "gone.png")
    assert labels(root, tmp_path) == [20, 0, 0]
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Skipped")]
    assert printed == [
        f"Skipped in {root}: 3 .tiff, 2 without a suffix, 1 broken links or special files, 1 .txt, 1 .csv, "
        "2 of other kinds. Only files that end in .png, .jpg, .jpeg, .webp, .bmp, .gif are read."
    ]
    assert labels(root, tmp_path) == [20, 0, 0]


def test_a_folder_of_pictures_only_prints_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(f"folder:{root}", tmp_path)
    assert "Skipped" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("folder:{}/nonexistent", "nonexistent does not exist; --dataset folder:PATH expects a folder"),
        ("folder:{}/cats/1.png", r"1\.png is a file; --dataset folder:PATH expects a folder"),
    ],
)
def test_a_path_that_is_not_a_folder_is_an_error(name: str, advice: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=advice):
        load(name.format(root), tmp_path)


@pytest.mark.parametrize("name", ["folder:", "npy:"])
@pytest.mark.parametrize("command", [["fit"], ["evaluate", "a.safetensors"], ["plot", "a.safetensors"]])
def test_no_path_is_refused(command: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--dataset", name])
    assert stop.value.code == 2
    assert f"vae-train {command[0]}: --dataset is {name}; it must be one of: mnist, " in capsys.readouterr().err


def test_file_names_need_not_be_valid_text(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    root.rename(strange)
    (strange / "cats").rename(strange / os.fsdecode(b"ch\xe2t"))
    (strange / os.fsdecode(b"a.\xff")).write_bytes(b"")
    out = tmp_path / "out.safetensors"
    options = ["--data-dir", str(tmp_path), "--epochs", "1", "--hidden-dim", "4", "--device", "cpu"]
    assert main(["fit", "--dataset", f"folder:{strange}", "--out", str(out), *options]) == 0
    assert r"Training on caf\xe9" in capsys.readouterr().out
    training = vae.load(out).training
    assert training["dataset"] == r"folder:caf\xe9"
    assert r"ch\xe2t" in training["classes"]
    evaluate = ["evaluate", str(out), "--importance-samples", "0", "--device", "cpu", "--data-dir", str(tmp_path)]
    assert main(evaluate) == 0
    assert r"1 .\xff" in capsys.readouterr().err


def test_the_folder_itself_is_not_changed(root: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    root.chmod(0o500)
    (root / "cats").chmod(0o500)
    assert labels(root, tmp_path / "cache") == [20, 0, 0]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_cache_that_cannot_be_written_is_an_error(root: Path, tmp_path: Path) -> None:
    (tmp_path / "decoded").write_bytes(b"a file in the way")
    with pytest.raises(DataError, match=r"uint8 cannot be written: .*change --data-dir"):
        load(f"folder:{root}", tmp_path)
