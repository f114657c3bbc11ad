"""Any number of images become rows of Parquet, each exactly once, whatever befalls the run."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vae
from tests.ray.cluster import GCS, HOST, Cluster, cluster, wait_until
from training.__main__ import main
from training.data.dataset import DataError
from training.encode.command import RUN
from training.encode.parquet import open_parquet
from vae import kl_divergence, reconstruction_loss

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "weights" / "mnist.safetensors"
Row = dict[str, Any]
Images = NDArray[np.uint8]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred digits are four parts."""
    for module in ("encode.rows", "encode.parquet"):
        monkeypatch.setattr(f"training.{module}.SHARD_ROWS", 64)


@pytest.fixture
def npy(tmp_path: Path, images: Images) -> Path:
    path = tmp_path / "digits.npy"
    np.save(path, images)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(path: Path, out: Path, *options: str) -> int:
    return main(["encode", str(path), "--out", str(out), "--batch-size", "50", *options])


def rows_of(out: Path, kind: str = "part") -> list[Row]:
    return [row for file in sorted(out.glob(f"{kind}-*.parquet")) for row in pq.read_table(file).to_pylist()]


def png(image: NDArray[Any], kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


@torch.inference_mode()
def expected(pixels: torch.Tensor, checkpoint: Path = BUNDLED) -> dict[str, NDArray[np.float32]]:
    """What the model itself says of (N, C, H, W) in [0, 1], one image at a time."""
    model = vae.load(checkpoint).model
    columns: dict[str, list[torch.Tensor]] = {}
    for x in pixels.split(1):
        mean, log_variance = model.encode(x)
        values = {
            "mean": mean,
            "log_variance": log_variance,
            "reconstruction_loss": reconstruction_loss(model.decode(mean), x),
            "kl_divergence": kl_divergence(mean, log_variance),
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return {name: torch.cat(values).numpy() for name, values in columns.items()}


def assert_are(rows: list[Row], ids: list[Any], pixels: torch.Tensor, checkpoint: Path = BUNDLED) -> None:
    assert [row["id"] for row in rows] == ids
    for name, values in expected(pixels, checkpoint).items():
        got = np.array([row[name] for row in rows])
        tolerance = 1e-5 if name in ("mean", "log_variance") else 1e-5 * np.abs(values).max()
        assert got.shape == values.shape
        assert np.abs(got - values).max() < tolerance, name


def pixels_of(images: Images) -> torch.Tensor:
    return torch.from_numpy(images[:, None] / 255).float()


def test_an_array_gives_what_the_model_says(
    npy: Path, out: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(npy, out) == 0
    assert_are(rows_of(out), list(range(200)), pixels_of(images))
    assert [pq.read_metadata(out / f"part-0000{shard}.parquet").num_rows for shard in range(4)] == [64, 64, 64, 8]
    latent = pa.list_(pa.float32(), 3)
    assert pq.read_schema(out / "part-00000.parquet").types == [pa.int64(), latent, latent, pa.float32(), pa.float32()]
    assert not rows_of(out, "errors")
    said = capsys.readouterr()
    assert "Encoded 200 images" in said.out
    assert "200/200" in said.err


@pytest.mark.parametrize(
    "layout",
    [
        lambda images: images[:, None],
        lambda images: images[..., None],
        np.asfortranarray,
        lambda images: (images / 255).astype(np.float32),
        lambda images: (images / 255).astype(">f8")[:, None],
    ],
)
def test_every_layout_is_the_same_images(layout: Any, tmp_path: Path, out: Path, images: Images) -> None:
    np.save(tmp_path / "a.npy", layout(images))
    assert run(tmp_path / "a.npy", out) == 0
    assert_are(rows_of(out), list(range(200)), pixels_of(images))


def test_floats_are_not_rounded_to_bytes(tmp_path: Path, out: Path, images: Images) -> None:
    between = (images[:50] / 255 * 0.99).astype(np.float32)
    np.save(tmp_path / "a.npy", between)
    assert run(tmp_path / "a.npy", out) == 0
    assert_are(rows_of(out), list(range(50)), torch.from_numpy(between[:, None]))


def test_pictures_in_folders(tmp_path: Path, out: Path, images: Images) -> None:
    names = [f"{number % 3}/{number:03}.png" for number in range(200)]
    for name, image in zip(names, images, strict=True):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(image))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    assert run(tmp_path / "in", out) == 0
    order = sorted(range(200), key=lambda number: names[number])
    rows = sorted(rows_of(out), key=lambda row: row["id"])
    assert_are(rows, [names[number] for number in order], pixels_of(images[order]))


def test_pictures_become_what_the_model_takes(tmp_path: Path, out: Path) -> None:
    """Brought to its shape as its training's pictures were, in its channels, without alpha."""
    checkpoint = tmp_path / "model.safetensors"
    model = vae.VAE(vae.VAEConfig(image_shape=(3, 4, 6), hidden_dim=8))
    vae.save(checkpoint, model, training={"pictures": {"fit": "cover"}}, figures={})
    (tmp_path / "in").mkdir()
    wide = np.zeros((8, 20), np.uint8)
    wide[:, 4:16] = 255
    Image.fromarray(wide).save(tmp_path / "in" / "grey.png")
    Image.new("RGBA", (3, 2), (255, 0, 51, 7)).save(tmp_path / "in" / "red.webp", lossless=True)
    assert run(tmp_path / "in", out, "--checkpoint", str(checkpoint)) == 0
    red = torch.tensor([7 / 255, 0, 1 / 255]).view(3, 1, 1).expand(3, 4, 6)
    assert_are(rows_of(out), ["grey.png", "red.webp"], torch.stack([torch.ones(3, 4, 6), red]), checkpoint)


def test_links_that_lead_nowhere_are_told(tmp_path: Path, out: Path, images: Images) -> None:
    write(tmp_path / "in" / "a.png", png(images[0]))
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "in" / "c.png").symlink_to("c.png")
    os.mkfifo(tmp_path / "in" / "d.png")
    assert run(tmp_path / "in", out) == 0
    assert [row["id"] for row in rows_of(out)] == ["a.png"]
    assert [row["id"] for row in rows_of(out, "errors")] == ["b.png", "c.png"]


def test_folders_behind_links_are_encoded_once(tmp_path: Path, out: Path, images: Images) -> None:
    write(tmp_path / "in" / "a.png", png(images[0]))
    write(tmp_path / "elsewhere" / "b.png", png(images[1]))
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "linked too").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "in")
    assert run(tmp_path / "in", out) == 0
    assert [row["id"] for row in rows_of(out)] == ["a.png", "linked/b.png"]


@pytest.mark.parametrize("row_group", [10, 1000])
def test_parquet_with_and_without_ids(row_group: int, tmp_path: Path, out: Path, images: Images) -> None:
    pictures = [png(image) for image in images]
    ids = [f"digit {number}" for number in range(200)]
    pq.write_table(pa.table({"id": ids, "image": pictures, "label": [0] * 200}), tmp_path / "a.parquet", row_group)
    assert run(tmp_path / "a.parquet", out) == 0
    assert_are(rows_of(out), ids, pixels_of(images))
    pq.write_table(pa.table({"png": pictures}), tmp_path / "b.parquet", row_group)
    assert run(tmp_path / "b.parquet", tmp_path / "out2") == 0
    assert_are(rows_of(tmp_path / "out2"), list(range(200)), pixels_of(images))


def test_a_row_group_longer_than_a_part_is_cut_and_read_once(
    tmp_path: Path, out: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [png(image) for image in images]}), path, 1000)
    opened = Mock(side_effect=pq.ParquetFile)
    monkeypatch.setattr("training.encode.parquet.pq.ParquetFile", opened)
    source = open_parquet(path, [path], (1, 28, 28), "contain")
    read = [(shard.number, ids) for shard, rows in source.read(source.shards, 50) for ids in [rows.ids.to_pylist()]]
    assert opened.call_count == 1
    assert [number for number, _ in read] == [0, 0, 1, 1, 2, 2, 3]
    assert [index for _, ids in read for index in ids] == list(range(200))
    assert run(path, out) == 0
    assert [pq.read_metadata(out / f"part-0000{shard}.parquet").num_rows for shard in range(4)] == [64, 64, 64, 8]
    for shard in (0, 2):
        (out / f"part-0000{shard}.parquet").unlink()
    assert run(path, out) == 0
    assert_are(rows_of(out), list(range(200)), pixels_of(images))


def test_a_folder_of_parquet_as_hugging_face_has_it(tmp_path: Path, out: Path, images: Images) -> None:
    (tmp_path / "in").mkdir()
    for file in range(2):
        column = [{"bytes": png(image), "path": None} for image in images[100 * file : 100 * (file + 1)]]
        pq.write_table(pa.table({"image": column, "thumbnail": [b""] * 100}), tmp_path / "in" / f"{file}.parquet")
    assert run(tmp_path / "in", out) == 0
    assert_are(rows_of(out), list(range(200)), pixels_of(images))


def test_ids_of_a_dictionary_type(tmp_path: Path, out: Path, images: Images) -> None:
    ids = [f"{number // 2}" for number in range(200)]
    table = pa.table({"id": pa.array(ids).dictionary_encode(), "image": [png(image) for image in images]})
    pq.write_table(table, tmp_path / "a.parquet", 50)
    assert run(tmp_path / "a.parquet", out) == 0
    assert_are(rows_of(out), ids, pixels_of(images))


def test_bad_images_are_told_and_stop_nothing(
    tmp_path: Path, out: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [png(image) for image in images]
    bad = {3: b"", 70: b"no picture", 71: whole[71][:60], 199: None}
    column = [bad.get(number, content) for number, content in enumerate(whole)]
    pq.write_table(pa.table({"image": pa.array(column, pa.binary())}), tmp_path / "a.parquet", 50)
    assert run(tmp_path / "a.parquet", out) == 0
    good = [number for number in range(200) if number not in bad]
    assert_are(rows_of(out), good, pixels_of(images[good]))
    errors = {row["id"]: row["error"] for row in rows_of(out, "errors")}
    assert errors.keys() == bad.keys()
    for sentence in errors.values():
        assert re.match("It is not an? (whole )?image: ", sentence)
        assert "0x" not in sentence
    said = capsys.readouterr().out
    assert "Encoded 196 images" in said
    assert "4 could not be read" in said


def test_an_input_of_which_nothing_can_be_read_is_a_failure(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 28, 28), 2.0))
    for _ in range(2):  # the second run finds the part done
        assert run(tmp_path / "a.npy", out) == 1
        assert sentence(capsys) == f"None of the 3 images could be read: {out}/errors-*.parquet say why."


def test_a_full_disk_is_told_with_the_path_of_the_first_file(
    tmp_path: Path, out: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", images)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        assert run(tmp_path / "a.npy", out) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sentence(capsys) == f"{out}/encoding.json cannot be written or read: File too large."
    assert run(tmp_path / "a.npy", out) == 0


def test_bad_files_are_told_by_their_paths(tmp_path: Path, out: Path, images: Images) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(images[0]))
    (tmp_path / "in" / "b.jpg").write_bytes(png(images[1], "jpeg")[:200])
    (tmp_path / "in" / "c.gif").write_bytes(b"")
    (tmp_path / "in" / os.fsdecode(b"\xff.png")).write_bytes(png(images[2]))
    assert run(tmp_path / "in", out) == 0
    assert_are(rows_of(out), ["a.png", "\\xff.png"], pixels_of(images[[0, 2]]))
    assert [row["id"] for row in rows_of(out, "errors")] == ["b.jpg", "c.gif"]


def test_bad_values_of_an_array_are_told_by_their_rows(tmp_path: Path, out: Path, images: Images) -> None:
    array = images / 255
    array[5, 0, 0], array[6, 1, 1], array[150, 2, 2] = np.nan, 1.5, -0.1
    np.save(tmp_path / "a.npy", array)
    assert run(tmp_path / "a.npy", out) == 0
    good = [number for number in range(200) if number not in (5, 6, 150)]
    assert_are(rows_of(out), good, pixels_of(images[good]))
    assert [row["id"] for row in rows_of(out, "errors")] == [5, 6, 150]
    assert "outside 0 to 1" in rows_of(out, "errors")[0]["error"]


def test_a_batch_without_any_image(tmp_path: Path, out: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((100, 28, 28), 2.0))
    assert run(tmp_path / "a.npy", out) == 1
    assert rows_of(out) == []
    assert len(rows_of(out, "errors")) == 100


def test_what_is_there_is_not_done_again(
    npy: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(npy, out)
    before = {file.name: file.read_bytes() for file in out.glob("*.parquet")}
    times = {file.name: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    (out / "part-00001.parquet").unlink()
    (out / "errors-00001.parquet").write_bytes(b"of a time when the disk could not be read")
    (out / ".part-00001.parquet.abc").write_bytes(b"cut off")
    capsys.readouterr()
    assert run(npy, out) == 0
    assert "Continuing after 136 images." in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in out.glob("*.parquet")} == before
    assert sorted(out.iterdir()) == sorted([out / RUN, *(out / name for name in before)])
    assert [name for name in times if (out / name).stat().st_mtime_ns != times[name]] == ["part-00001.parquet"]
    assert run(npy, out) == 0


def test_two_runs_do_not_write_one_output(npy: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(npy, out)
    (out / "part-00001.parquet").unlink()
    (out / ".part-00001.parquet.abc").write_bytes(b"of the other run")
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, out / RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        assert run(npy, out) == 2
        assert "is being written by another run: wait for it" in sentence(capsys)
        assert (out / ".part-00001.parquet.abc").exists()
        other.communicate(b"\n")
    assert run(npy, out) == 0
    assert len(rows_of(out)) == 200


def command(path: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "training", "encode", str(path), "--out", str(out), *options]


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        assert process.poll() is None, "the command ended before it could be killed"
        time.sleep(0.002)


KILLED = """
import os, signal, sys
from pathlib import Path
from training.__main__ import main
replace = Path.replace
def die(self, target):
    if target.name == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = die
main(sys.argv[2:])
"""
"""A run that is killed while it writes the file that its first argument names."""


def test_a_run_that_is_killed_goes_on(tmp_path: Path, out: Path, images: Images) -> None:
    path = tmp_path / "many.npy"
    np.save(path, np.tile(images, (300, 1, 1)))
    for shard in ("part-00001.parquet", "part-00002.parquet"):
        arguments = [sys.executable, "-c", KILLED, shard, *command(path, out)[3:]]
        assert subprocess.run(arguments, cwd=ROOT, stderr=subprocess.DEVNULL, check=False).returncode == -signal.SIGKILL
        assert not (out / shard).exists()
        assert list(out.glob(f".{shard}.*"))
    done = subprocess.run(command(path, out), cwd=ROOT, check=True, capture_output=True, text=True)
    assert "Continuing after 32,768 images." in done.stdout
    rows = rows_of(out)
    assert [row["id"] for row in rows] == list(range(60_000))
    values = expected(pixels_of(images))
    for name, wanted in values.items():
        got = np.array([row[name] for row in rows])
        assert np.allclose(got, np.concatenate([wanted] * 300), atol=1e-5, rtol=1e-5), name
    assert {file.name for file in out.iterdir()} == {RUN, *(f"part-0000{shard}.parquet" for shard in range(4))}


def test_readers_of_a_run_that_is_killed_end(tmp_path: Path, out: Path, images: Images) -> None:
    column = [png(image) for image in images] * 500
    pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet", 20_000)
    process = subprocess.Popen(command(tmp_path / "a.parquet", out), cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_for(out / "part-00000.parquet", process)
        readers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert readers
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in readers):
        assert time.monotonic() < end
        time.sleep(0.1)


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("array", "mend"),
    [
        (np.zeros((9, 27, 28), np.uint8), r"\(9, 27, 28\); \(N, 1, 28, 28\) or .* or \(N, 28, 28\) is what"),
        (np.zeros((9, 3, 28, 28), np.uint8), r"\(9, 3, 28, 28\)"),
        (np.zeros((28, 28), np.uint8), r"\(28, 28\)"),
        (np.zeros((9, 28, 28), np.int32), "int32; uint8"),
        (np.array([np.zeros((2, 2)), np.zeros((3, 3))], object), "cannot be read as a .npy file"),
    ],
)
def test_a_wrong_array_is_a_sentence(
    array: NDArray[Any], mend: str, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", array)
    assert run(tmp_path / "a.npy", out) == 1
    assert re.search(mend, sentence(capsys))
    assert not out.exists()


def parquet(path: Path, **columns: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


INPUTS: dict[str, tuple[str, tuple[Callable[[Path], None], ...], str]] = {
    "missing": ("in", (), "in does not exist: a folder of pictures"),
    "unknown": ("in.tar", (lambda path: write(path, b"x"),), "in.tar is none of these: a folder of pictures"),
    "empty": ("in", (lambda path: path.mkdir(),), r"in holds neither pictures \(.png, .*\) nor .parquet files"),
    "both kinds": (
        "in",
        (lambda path: write(path / "a.png", b""), lambda path: parquet(path / "a.parquet", image=[b""])),
        "in holds pictures as well as .parquet files: encode each in a run of its own",
    ),
    "no column": (
        "in.parquet",
        (lambda path: parquet(path, a=[1], id=[b""]),),
        r"no column of image bytes; its columns are a \(int64\), id \(binary\)",
    ),
    "columns": ("in.parquet", (lambda path: parquet(path, a=[b""], b=[b""]),), "several columns of bytes, a, b: call"),
    "differing files": (
        "in",
        (
            lambda path: parquet(path / "a.parquet", image=[b""]),
            lambda path: parquet(path / "b.parquet", image=[b""], id=[1]),
        ),
        r"a.parquet and .*b.parquet differ in the columns image or id",
    ),
    "no Parquet": ("in.parquet", (lambda path: write(path, b"PAR1"),), "in.parquet cannot be read as Parquet: .* Mend"),
    "cut Parquet": (
        "in.parquet",
        (lambda path: parquet(path, image=[bytes(100)]), lambda path: os.truncate(path, 300)),
        "in.parquet cannot be read as Parquet: .* Mend it",
    ),
    "cut array": (
        "in.npy",
        (lambda path: np.save(path, np.zeros((9, 28, 28), np.uint8)), lambda path: os.truncate(path, 900)),
        "in.npy cannot be read as a .npy file",
    ),
    "empty array": ("in.npy", (lambda path: write(path, b""),), "in.npy is empty; a .npy file is expected"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_a_wrong_input_is_a_sentence(case: str, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, steps, mend = INPUTS[case]
    for step in steps:
        step(tmp_path / name)
    assert run(tmp_path / name, out) == 1
    assert re.search(mend, sentence(capsys))
    assert not out.exists()


def test_parquet_that_is_damaged_in_the_middle_is_a_sentence(
    tmp_path: Path, out: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [png(image) for image in images]}), path, 64, use_dictionary=False)
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(2).column(0).data_page_offset
    content[start : start + 2000] = bytes(2000)
    path.write_bytes(content)
    assert run(path, out) == 1
    assert re.fullmatch(r".*a\.parquet cannot be read as Parquet: .*Mend it or remove it\.", sentence(capsys))


def test_a_disk_that_cannot_be_read_is_not_taken_for_bad_pictures(
    tmp_path: Path, out: Path, images: Images, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.png", png(images[0]))

    read_bytes = Path.read_bytes

    def broken(self: Path) -> bytes:
        if self.suffix == ".png":
            raise OSError(5, "Input/output error")
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", broken)
    assert run(tmp_path / "in", out) == 1
    assert re.search("a.png cannot be read: Input/output error. Repair the disk", sentence(capsys))
    assert not rows_of(out, "errors")


def test_a_full_disk_is_a_sentence_and_the_same_command_goes_on(
    npy: Path, out: Path, images: Images, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == "part-00002.parquet":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert run(npy, out) == 1
    assert re.search(
        "Part 2 cannot be written to .*: No space left on device. Free space on the disk; the", sentence(capsys)
    )
    assert [row["id"] for row in rows_of(out)] == list(range(128))
    assert run(npy, out) == 0
    assert_are(rows_of(out), list(range(200)), pixels_of(images))


def test_the_readmes_commands_encode_what_they_say(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "training" / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", images)
    write(Path("pictures/0.png"), png(images[0]))
    for file in ("images.parquet", "tables/0.parquet", "tables/1.parquet"):
        parquet(Path(file), image=[png(image) for image in images[:3]])
    commands = re.findall(r"^vae-train (encode .*?)(?: +#.*)?$", readme, re.MULTILINE)
    here = [command.split() for command in commands if "--ray" not in command]
    assert len(here) == len(commands) - 1
    for command in here:
        assert main(command) == 0
        assert rows_of(Path(command[-1])), command
    (example,) = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(example, namespace)
    assert len(namespace["table"]) == len(images)


def test_draws_add_the_elbo_whatever_the_batch(npy: Path, tmp_path: Path, images: Images) -> None:
    for name, size in (("whole", "200"), ("cut", "7")):
        assert run(npy, tmp_path / name, "--draws", "30", "--seed", "5", "--batch-size", size) == 0
    (whole, cut) = (rows_of(tmp_path / name) for name in ("whole", "cut"))
    model, x = vae.load(BUNDLED).model, pixels_of(images)
    mean, log_variance = model.encode(x)
    noise = torch.from_numpy(np.random.Generator(np.random.PCG64(5)).standard_normal((30, 3), np.float32))
    logits = [model.decode(mean + each * torch.exp(log_variance / 2)) for each in noise]
    values = torch.stack([vae.elbo(each, x, mean, log_variance) for each in logits]).double()
    wanted = {"elbo": values.mean(0), "elbo_standard_error": values.std(0) / 30**0.5}
    for name, each in wanted.items():
        for rows in (whole, cut):
            np.testing.assert_allclose([row[name] for row in rows], each.numpy(), rtol=1e-4)


def test_an_output_keeps_its_draws_and_seed(npy: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(npy, out, "--draws", "2", "--seed", "5") == 0
    assert "elbo" in pq.read_schema(out / "part-00000.parquet").names
    for options in ([], ["--draws", "3", "--seed", "5"], ["--draws", "2"]):
        assert run(npy, out, *options) == 2
        assert "was begun with --draws 2 --seed 5: give the same" in sentence(capsys)
    assert run(npy, out, "--draws", "2", "--seed", "5") == 0


@pytest.mark.parametrize("options", [["--draws", "1"], ["--draws", "-2"], ["--draws", "2", "--seed", "-1"]])
def test_bad_draws(npy: Path, out: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(npy, out, *options) == 2
    assert "; it must be " in sentence(capsys)
    assert not out.exists()


def test_an_interrupt_says_that_it_goes_on(
    npy: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.encode.shards._encode", interrupted)
    assert run(npy, out) == 130
    assert "The same command continues." in sentence(capsys)


def test_an_output_of_anything_else_is_a_sentence(
    npy: Path, out: Path, tmp_path: Path, fitted: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(npy, out) == 0
    assert run(npy, out, "--checkpoint", str(fitted)) == 2
    assert re.search("another checkpoint, mnist, made of .*digits.npy: give", sentence(capsys))
    np.save(tmp_path / "other.npy", images[:100])
    assert run(tmp_path / "other.npy", out) == 2
    assert re.search("encodings of .*digits.npy as it was then, which .*other.npy is not", sentence(capsys))
    os.utime(npy, (0, 0))
    assert run(npy, out) == 2
    assert re.search("encodings of .*digits.npy as it was then, which .*digits.npy is not", sentence(capsys))
    assert run(npy, tmp_path) == 2
    assert "holds something else" in sentence(capsys)
    assert run(npy, npy) == 2
    assert re.search("lies in", sentence(capsys))
    assert run(npy, fitted) == 2
    assert re.search("is a file; give a folder", sentence(capsys))
    write(tmp_path / "in" / "a.png", png(images[0]))
    assert run(tmp_path / "in", tmp_path / "in" / "out") == 2
    assert re.search("out lies in .*in, which is read: give", sentence(capsys))


def test_a_changed_picture_is_another_input(
    tmp_path: Path, out: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.png", png(images[0]))
    assert run(tmp_path / "in", out) == 0
    write(tmp_path / "in" / "b.png", png(images[1]))
    assert run(tmp_path / "in", out) == 2
    assert "as it was then" in sentence(capsys)


def test_a_wrong_option_is_a_sentence(npy: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(npy, out, "--batch-size", "0") == 2
    assert "--batch-size is 0; it must be 1 or more." in sentence(capsys)
    assert run(npy, out, "--device", "tpu") == 2
    assert "--device is tpu" in sentence(capsys)
    assert run(npy, out, "--checkpoint", "none.safetensors") == 1
    assert "none.safetensors cannot be read" in sentence(capsys)


def test_ray_that_is_not_installed_is_a_sentence(
    npy: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(npy, out, "--ray", "auto") == 2
    assert "pip install 'vae-service[training,ray]'" in sentence(capsys)


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: extra `ray`")


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    """Two node processes of one processor each."""
    with cluster(nodes=2) as ray:
        yield ray


def on(ray: Cluster, path: Path, out: Path) -> list[str]:
    return command(path, out, "--ray", f"{HOST}:{GCS}")


def run_on(ray: Cluster, path: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: Ray's threads and sockets outlive it in this one."""
    arguments = on(ray, path, out)
    return subprocess.run(
        arguments, cwd=ROOT, env=ray.environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.ray
@needs_ray
def test_a_ray_cluster_gives_the_same_and_goes_on(ray: Cluster, tmp_path: Path, out: Path, images: Images) -> None:
    column = [png(image) for image in images]
    column[7] = b"no picture"
    (tmp_path / "in").mkdir()
    for file in range(4):
        table = pa.table({"image": column[50 * file : 50 * (file + 1)]})
        pq.write_table(table, tmp_path / "in" / f"{file}.parquet")
    for going_on in (False, True):
        done = run_on(ray, tmp_path / "in", out)
        assert done.returncode == 0, done.stderr
        good = [number for number in range(200) if number != 7]
        assert_are(rows_of(out), good, pixels_of(images[good]))
        assert [row["id"] for row in rows_of(out, "errors")] == [7]
        assert len(list(out.glob("part-*"))) == 4
        assert ("Continuing after 100 images." in done.stdout) == going_on
        for shard in (1, 2):
            (out / f"part-0000{shard}.parquet").unlink()


@pytest.mark.ray
@needs_ray
def test_what_stops_a_machine_of_a_cluster_is_a_sentence(ray: Cluster, tmp_path: Path, out: Path) -> None:
    parquet(tmp_path / "a.parquet", image=[bytes(range(100)) * 20])
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:40] = bytes(36)
    (tmp_path / "a.parquet").write_bytes(content)
    done = run_on(ray, tmp_path / "a.parquet", out)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r".*a\.parquet cannot be read as Parquet: .* Mend it or remove it\.", last)


@needs_ray
@pytest.mark.ray
def test_what_a_machine_does_not_see_is_a_sentence(tmp_path: Path) -> None:
    from training.encode.ray import _check_shared  # noqa: PLC0415

    _check_shared(tmp_path)
    with pytest.raises(DataError, match=r"none is not seen on .*: input and output must lie where all"):
        _check_shared(tmp_path, tmp_path / "none")


@pytest.mark.ray
@needs_ray
def test_a_cluster_that_is_not_there_is_a_sentence(npy: Path, out: Path) -> None:
    done = subprocess.run(
        command(npy, out, "--ray", "127.0.0.1:1"), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "--ray 127.0.0.1:1 cannot be reached: " in done.stderr.strip().splitlines()[-1]


@pytest.mark.ray
@needs_ray
def test_a_part_whose_machine_is_lost_is_done_again(ray: Cluster, tmp_path: Path, out: Path) -> None:
    """The last of these tests: the cluster is not what it was."""
    images = 1_000_000
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (images, 28, 28))
    process = subprocess.Popen(on(ray, tmp_path / "a.npy", out), cwd=ROOT, env=ray.environment)
    try:
        wait_until(lambda: len(ray.actors("PartEncoder")) == 2)
        ray.lose(1)
        begun = len(list(out.glob("part-*.parquet")))
        assert process.wait(300) == 0
    finally:
        process.kill()
    assert begun < len(list(out.glob("part-*.parquet")))
    ids = pa.concat_arrays(
        [pq.read_table(file, columns=["id"])["id"].combine_chunks() for file in sorted(out.glob("part-*"))]
    )
    assert ids.equals(pa.array(range(images)))
