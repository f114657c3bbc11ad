"""A checkpoint records its data set, so that later commands find it again or warn of another one."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vae
from training.__main__ import _load, _parse, main
from training.data.load import load

TINY = ["--epochs", "1", "--hidden-dim", "4", "--device", "cpu"]
MEASURE = ["--importance-samples", "0", "--device", "cpu", "--json"]
BUNDLED = Path(__file__).parents[3] / "weights" / "mnist.safetensors"


def write(folder: Path, count: int, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(np.random.default_rng(seed).integers(0, 256, (count, 4, 4), np.uint8)):
        Image.fromarray(image).save(folder / f"{seed}-{number}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cats`, 60 pictures, and `out`, a training on them; with `rows.npy` and one on it."""
    root = tmp_path_factory.mktemp("made")
    write(root / "cats", 60)
    np.save(root / "rows.npy", np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8))
    for name in ("folder:{}/cats", "npy:{}/rows.npy"):
        out = root / "out" / f"{name.partition(':')[0]}.safetensors"
        assert main([*fit(root, out), "--dataset", name.format(root)]) == 0
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of `made`; the trainings in it were given the paths of the original."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def fit(root: Path, out: Path, *options: str) -> list[str]:
    return ["fit", "--data-dir", str(root / "data"), "--out", str(out), *TINY, *options]


def rewrite(path: Path, change: dict[str, Any], without: tuple[str, ...] = ()) -> None:
    """Change the training metadata of a checkpoint."""
    checkpoint = vae.load(path)
    training = {name: value for name, value in (checkpoint.training | change).items() if name not in without}
    vae.save(path, checkpoint.model, training=training, metrics=checkpoint.metrics)


def test_the_checkpoint_records_its_data_set_but_no_path(made: Path) -> None:
    training = vae.load(made / "out" / "folder.safetensors").training
    assert training["dataset"] == "folder:cats"
    data = training["data"]
    assert data == {
        "fingerprint": data["fingerprint"],
        "hashed": "files",
        "test_share": 0.1,
        "validation_share": 1 / 12,
    }
    assert len(data["fingerprint"]) == 16
    assert str(made) not in json.dumps(training)
    state = torch.load(made / "out" / "folder.state.pt", weights_only=True)
    assert (state["dataset"], state["data"]) == (f"folder:{made / 'cats'}", data)


@pytest.mark.parametrize("kind", ["folder", "npy"])
def test_evaluate_finds_the_data_set_again(
    kind: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir("/")
    out = made / "out" / f"{kind}.safetensors"
    assert main(["evaluate", str(out), *MEASURE, "--data-dir", str(made / "data")]) == 0
    printed = capsys.readouterr()
    answer, figures = json.loads(printed.out), vae.load(out).metrics
    for name in ("train_images", "test_images", "train_neg_elbo", "test_neg_elbo"):
        assert answer[name] == pytest.approx(figures[name], rel=1e-5), name
    assert "figures" not in printed.err


def test_plot_finds_the_data_set_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    options = _parse(["plot", str(made / "out" / "npy.safetensors"), "--data-dir", str(made / "data")])
    checkpoint, train, test = _load(options)
    assert (len(train), len(test)) == (checkpoint.metrics["train_images"], checkpoint.metrics["test_images"])


def test_a_data_set_that_lies_elsewhere_is_given(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir("/")
    out = root / "out" / "folder.safetensors"
    out.with_suffix(".state.pt").unlink()
    data_dir = ["--data-dir", str(tmp_path)]
    assert main(["evaluate", str(out), *MEASURE, *data_dir]) == 1
    assert "cats does not exist; --dataset folder:PATH expects a folder" in capsys.readouterr().err
    (root / "cats").rename(root / "felines")
    assert main(["evaluate", str(out), *MEASURE, *data_dir, "--dataset", f"folder:{root / 'felines'}"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["train_images"] == vae.load(out).metrics["train_images"]
    assert "figures" not in printed.err
    out.with_suffix(".state.pt").write_bytes(b"damaged")
    assert main(["evaluate", str(out), *MEASURE, *data_dir]) == 1
    assert "cats does not exist" in capsys.readouterr().err


def test_the_state_of_another_training_is_ignored(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root / "out" / "folder.safetensors"
    shutil.copy(root / "out" / "npy.state.pt", out.with_suffix(".state.pt"))
    assert main(["evaluate", str(out), *MEASURE, "--data-dir", str(root)]) == 1
    assert "cats does not exist" in capsys.readouterr().err


def test_evaluate_warns_of_a_changed_data_set(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root / "out" / "folder.safetensors"
    images = vae.load(out).metrics["train_images"]
    write(root / "cats", 30, 1)
    command = ["evaluate", str(out), *MEASURE, "--data-dir", str(root), "--dataset", f"folder:{root / 'cats'}"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert images < json.loads(printed.out)["train_images"] < images + 30  # without what would be held out
    assert "The weights were trained on folder:cats with fingerprint" in printed.err


def test_an_older_checkpoint_of_a_folder_is_measured_with_a_warning(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = root / "out" / "folder.safetensors"
    rewrite(out, {}, without=("data",))
    name = f"folder:{root / 'cats'}"
    assert main(["evaluate", str(out), *MEASURE, "--data-dir", str(root), "--dataset", name]) == 0
    printed = capsys.readouterr()
    train, _ = load(name, root)
    assert json.loads(printed.out)["train_images"] == len(train)
    assert "does not tell which images its weights were trained on" in printed.err


def test_an_older_checkpoint_of_mnist_is_measured_on_all_but_the_last_images(
    fitted: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copy(fitted, tmp_path / "older.safetensors"))
    rewrite(out, {"training_images": 350}, without=("data",))
    _, train, test = _load(_parse(["evaluate", str(out), "--data-dir", str(data_dir)]))
    all_train, all_test = load("mnist", data_dir)
    assert train.images.equal(all_train.images[:350])
    assert test.images.equal(all_test.images)
    assert capsys.readouterr().err == ""


def test_the_bundled_checkpoint_is_measured_on_all_images(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, train, test = _load(_parse(["evaluate", str(BUNDLED), "--data-dir", str(data_dir)]))
    assert (len(train), len(test)) == (400, 200)
    assert capsys.readouterr().err == ""


def test_of_another_data_set_all_images_are_measured(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "other.npy", np.random.default_rng(1).integers(0, 256, (50, 4, 4), np.uint8))
    name = f"npy:{tmp_path / 'other.npy'}"
    out = str(made / "out" / "npy.safetensors")
    _, train, test = _load(_parse(["evaluate", out, "--data-dir", str(tmp_path), "--dataset", name]))
    assert len(train) + len(test) == 50
    assert "figures" not in capsys.readouterr().err


def test_resume_refuses_another_data_set(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root / "out" / "folder.safetensors"
    write(root / "cats", 1, 1)
    command = [*fit(root, out, "--resume"), "--dataset", f"folder:{root / 'cats'}"]
    assert main(command) == 2
    printed = capsys.readouterr().err
    before = vae.load(out).training["data"]["fingerprint"]
    assert "folder.state.pt a training on folder:" in printed
    assert f"cats with fingerprint {before}, not on folder:{root / 'cats'} with " in printed
    assert "Give the data set that it was started with, or start without --resume." in printed
    (root / "cats" / "1-0.png").unlink()
    (root / "cats").rename(root / "felines")
    command[-1] = f"folder:{root / 'felines'}"
    assert main(command) == 0
    assert "Continuing after epoch 1" in capsys.readouterr().out


def test_resume_of_an_older_state_is_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "out" / "folder.state.pt"
    content = torch.load(path, weights_only=True)
    del content["data"]
    torch.save(content, path)
    out = root / "out" / "folder.safetensors"
    assert main([*fit(root, out, "--resume"), "--dataset", f"folder:{root / 'cats'}"]) == 1
    assert "cannot be read as a training's state; start without --resume." in capsys.readouterr().err


def started(root: Path, start: Path, capsys: pytest.CaptureFixture[str], dataset: str, *options: str) -> list[str]:
    """Run `fit --init-from` and return its warnings about the data sets."""
    command = [*fit(root, root / "new.safetensors", *options), "--dataset", dataset, "--init-from", str(start)]
    assert main(command) == 0
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("--init-from: ")]


def test_init_from_warns_of_test_images_that_may_have_been_trained_on(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, same = root / "out" / "folder.safetensors", f"folder:{root / 'cats'}"
    assert started(root, start, capsys, same) == []
    (printed,) = started(root, start, capsys, f"npy:{root / 'rows.npy'}")
    now = vae.load(root / "new.safetensors").training["data"]["fingerprint"]
    assert f"trained on folder:cats with fingerprint {vae.load(start).training['data']['fingerprint']}; " in printed
    assert f"rows.npy has {now}. " in printed
    assert "test images of then may be training images now" in printed

    rewrite(start, {"data": vae.load(start).training["data"] | {"test_share": 0.2}})
    assert len(started(root, start, capsys, same)) == 1
    rewrite(start, {}, without=("data",))
    (printed,) = started(root, start, capsys, same)
    assert printed == (
        "--init-from: The checkpoint does not tell which images its weights were trained on: they may be among the "
        "test images of now, whose figures would be too good."
    )


def test_init_from_follows_the_chain_of_trainings(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, first = root / "out" / "folder.safetensors", vae.load(root / "out" / "npy.safetensors")
    rewrite(start, {"started_from": {"sha256": first.sha256, "training": first.training}})
    (printed,) = started(root, start, capsys, f"folder:{root / 'cats'}")
    assert "trained on npy:rows.npy with fingerprint" in printed


def test_init_from_warns_of_validation_images_that_were_trained_on(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, same = root / "out" / "folder.safetensors", f"folder:{root / 'cats'}"
    (printed,) = started(root, start, capsys, same, "--validation", "30")
    assert printed.endswith("trained on images that are held out for validation now, whose figures are too good.")
    assert started(root, start, capsys, same, "--validation", "0") == []


def test_init_from_a_checkpoint_of_mnist_does_not_warn_of_test_images(
    fitted: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = Path(shutil.copy(fitted, tmp_path / "older.safetensors"))
    rewrite(older, {}, without=("data",))
    options = ["--data-dir", str(data_dir), "--out", str(tmp_path / "a.safetensors"), "--init-from", str(older)]
    options += ["--epochs", "1", "--device", "cpu"]
    assert main(["fit", *options, "--validation", "0"]) == 0
    assert "--init-from:" not in capsys.readouterr().err
    assert main(["fit", *options]) == 0
    assert "held out for validation now" in capsys.readouterr().err
    rewrite(older, {}, without=("dataset",))  # as the article's own has none
    assert main(["fit", *options, "--validation", "0"]) == 0
    assert "does not tell which images" in capsys.readouterr().err
