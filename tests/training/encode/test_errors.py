"""Images that cannot be read are listed; inputs, options and disks that cannot be used end the run."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests.training.encode.encoding import (
    Images,
    assert_rows,
    encode,
    last_line,
    pixels_of,
    png,
    rows_of,
    write,
    write_parquet,
)

pytestmark = pytest.mark.slow


def test_bad_images_are_listed_and_do_not_end_the_run(
    tmp_path: Path, out: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [png(image) for image in images]
    bad = {3: b"", 70: b"no picture", 71: whole[71][:60], 199: None}
    column = [bad.get(number, content) for number, content in enumerate(whole)]
    pq.write_table(pa.table({"image": pa.array(column, pa.binary())}), tmp_path / "a.parquet", 50)
    assert encode(tmp_path / "a.parquet", out) == 0
    good = [number for number in range(200) if number not in bad]
    assert_rows(rows_of(out), good, pixels_of(images[good]))
    errors = {row["id"]: row["error"] for row in rows_of(out, "errors")}
    assert errors.keys() == bad.keys()
    for sentence in errors.values():
        assert re.match("It is not an? (whole )?image: ", sentence)
        assert "0x" not in sentence
    printed = capsys.readouterr().out
    assert "Encoded 196 images" in printed
    assert "4 could not be read" in printed


def test_an_input_without_any_readable_image_is_an_error(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 28, 28), 2.0))
    for _ in range(2):  # the second run finds the part done
        assert encode(tmp_path / "a.npy", out) == 1
        assert last_line(capsys) == f"None of the 3 images could be read: {out}/errors-*.parquet say why."


def test_bad_files_are_listed_by_their_paths(tmp_path: Path, out: Path, images: Images) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(images[0]))
    (tmp_path / "in" / "b.jpg").write_bytes(png(images[1], "jpeg")[:200])
    (tmp_path / "in" / "c.gif").write_bytes(b"")
    (tmp_path / "in" / os.fsdecode(b"\xff.png")).write_bytes(png(images[2]))
    assert encode(tmp_path / "in", out) == 0
    assert_rows(rows_of(out), ["a.png", "\\xff.png"], pixels_of(images[[0, 2]]))
    assert [row["id"] for row in rows_of(out, "errors")] == ["b.jpg", "c.gif"]


def test_bad_values_of_an_array_are_listed_by_their_rows(tmp_path: Path, out: Path, images: Images) -> None:
    array = images / 255
    array[5, 0, 0], array[6, 1, 1], array[150, 2, 2] = np.nan, 1.5, -0.1
    np.save(tmp_path / "a.npy", array)
    assert encode(tmp_path / "a.npy", out) == 0
    good = [number for number in range(200) if number not in (5, 6, 150)]
    assert_rows(rows_of(out), good, pixels_of(images[good]))
    assert [row["id"] for row in rows_of(out, "errors")] == [5, 6, 150]
    assert "outside 0 to 1" in rows_of(out, "errors")[0]["error"]


def test_a_batch_without_any_image(tmp_path: Path, out: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((100, 28, 28), 2.0))
    assert encode(tmp_path / "a.npy", out) == 1
    assert rows_of(out) == []
    assert len(rows_of(out, "errors")) == 100


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.zeros((9, 27, 28), np.uint8), r"\(9, 27, 28\); \(N, 1, 28, 28\) or .* or \(N, 28, 28\) is what"),
        (np.zeros((9, 3, 28, 28), np.uint8), r"\(9, 3, 28, 28\)"),
        (np.zeros((28, 28), np.uint8), r"\(28, 28\)"),
        (np.zeros((9, 28, 28), np.int32), "int32; uint8"),
        (np.array([np.zeros((2, 2)), np.zeros((3, 3))], object), "cannot be read as a .npy file"),
    ],
)
def test_a_wrong_array_is_an_error(
    array: NDArray[Any], advice: str, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", array)
    assert encode(tmp_path / "a.npy", out) == 1
    assert re.search(advice, last_line(capsys))
    assert not out.exists()


INPUTS: dict[str, tuple[str, tuple[Callable[[Path], None], ...], str]] = {
    "missing": ("in", (), "in does not exist: a folder of pictures"),
    "unknown": ("in.tar", (lambda path: write(path, b"x"),), "in.tar is none of these: a folder of pictures"),
    "empty": ("in", (lambda path: path.mkdir(),), r"in holds neither pictures \(.png, .*\) nor .parquet files"),
    "both kinds": (
        "in",
        (lambda path: write(path / "a.png", b""), lambda path: write_parquet(path / "a.parquet", image=[b""])),
        "in holds pictures as well as .parquet files: encode each in a run of its own",
    ),
    "no column": (
        "in.parquet",
        (lambda path: write_parquet(path, a=[1], id=[b""]),),
        r"no column of image bytes; its columns are a \(int64\), id \(binary\)",
    ),
    "columns": (
        "in.parquet",
        (lambda path: write_parquet(path, a=[b""], b=[b""]),),
        "several columns of bytes, a, b: call",
    ),
    "differing files": (
        "in",
        (
            lambda path: write_parquet(path / "a.parquet", image=[b""]),
            lambda path: write_parquet(path / "b.parquet", image=[b""], id=[1]),
        ),
        r"a.parquet and .*b.parquet differ in the columns image or id",
    ),
    "no Parquet": (
        "in.parquet",
        (lambda path: write(path, b"PAR1"),),
        "in.parquet cannot be read as Parquet: .* Repair",
    ),
    "cut Parquet": (
        "in.parquet",
        (lambda path: write_parquet(path, image=[bytes(100)]), lambda path: os.truncate(path, 300)),
        "in.parquet cannot be read as Parquet: .* Repair",
    ),
    "cut array": (
        "in.npy",
        (lambda path: np.save(path, np.zeros((9, 28, 28), np.uint8)), lambda path: os.truncate(path, 900)),
        "in.npy cannot be read as a .npy file",
    ),
    "empty array": ("in.npy", (lambda path: write(path, b""),), "in.npy is empty; a .npy file is expected"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_a_wrong_input_is_an_error(case: str, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, steps, advice = INPUTS[case]
    for step in steps:
        step(tmp_path / name)
    assert encode(tmp_path / name, out) == 1
    assert re.search(advice, last_line(capsys))
    assert not out.exists()


def test_parquet_that_is_damaged_in_the_middle_is_an_error(
    tmp_path: Path, out: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [png(image) for image in images]}), path, 64, use_dictionary=False)
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(2).column(0).data_page_offset
    content[start : start + 2000] = bytes(2000)
    path.write_bytes(content)
    assert encode(path, out) == 1
    assert re.fullmatch(r".*a\.parquet cannot be read as Parquet: .*Repair or remove it\.", last_line(capsys))


@pytest.mark.usefixtures("forked")
def test_a_read_error_of_the_disk_is_not_listed_as_a_bad_picture(
    tmp_path: Path, out: Path, images: Images, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.png", png(images[0]))

    read_bytes = Path.read_bytes

    def broken(self: Path) -> bytes:
        if self.suffix == ".png":
            raise OSError(5, "Input/output error")
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", broken)
    assert encode(tmp_path / "in", out) == 1
    assert re.search("a.png cannot be read: Input/output error. Repair the disk", last_line(capsys))
    assert not rows_of(out, "errors")


def test_the_error_of_a_full_disk_names_the_first_file(
    tmp_path: Path, out: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", images)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        assert encode(tmp_path / "a.npy", out) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert last_line(capsys) == f"{out}/encoding.json cannot be written or read: File too large."
    assert encode(tmp_path / "a.npy", out) == 0


def test_a_wrong_option_is_an_error(npy: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encode(npy, out, "--batch-size", "0") == 2
    assert "--batch-size is 0; it must be 1 or more." in last_line(capsys)
    assert encode(npy, out, "--device", "tpu") == 2
    assert "--device is tpu" in last_line(capsys)
    assert encode(npy, out, "--checkpoint", "none.safetensors") == 1
    assert "none.safetensors cannot be read" in last_line(capsys)


@pytest.mark.parametrize(
    "options",
    [["--draws", "1"], ["--draws", "-2"], ["--draws", "2", "--seed", "-1"], ["--seed", str(2**64)], ["--level", "1.1"]],
)
def test_bad_draws(npy: Path, out: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert encode(npy, out, *options) == 2
    assert "; it must be " in last_line(capsys)
    assert not out.exists()


def test_ray_that_is_not_installed_is_an_error(
    npy: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert encode(npy, out, "--ray", "auto") == 2
    assert "pip install 'vae-service[training,ray]'" in last_line(capsys)
