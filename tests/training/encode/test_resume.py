"""An output folder belongs to one run, which continues after an interrupt, an error or a kill."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training import processes
from tests.training.encode.encoding import (
    Images,
    assert_rows,
    encode,
    last_line,
    pixels_of,
    png,
    rows_of,
    use_small_parts,
    write,
)
from training.encode.command import RUN

pytestmark = pytest.mark.slow


def test_existing_parts_are_not_encoded_again(
    npy: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encode(npy, out)
    before = {file.name: file.read_bytes() for file in out.glob("*.parquet")}
    times = {file.name: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    (out / "part-00001.parquet").unlink()
    (out / "errors-00001.parquet").write_bytes(b"of a time when the disk could not be read")
    (out / ".part-00001.parquet.abc").write_bytes(b"cut off")
    capsys.readouterr()
    assert encode(npy, out) == 0
    assert "Continuing after 136 images." in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in out.glob("*.parquet")} == before
    assert sorted(out.iterdir()) == sorted([out / RUN, *(out / name for name in before)])
    assert [name for name in times if (out / name).stat().st_mtime_ns != times[name]] == ["part-00001.parquet"]
    assert encode(npy, out) == 0


def test_two_runs_do_not_write_one_output(npy: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encode(npy, out)
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
        assert encode(npy, out) == 2
        assert "is being written by another run: wait for it" in last_line(capsys)
        assert (out / ".part-00001.parquet.abc").exists()
        other.communicate(b"\n")
    assert encode(npy, out) == 0
    assert len(rows_of(out)) == 200


def encode_and_die(part: str, path: Path, out: Path, readers: Path) -> None:
    """Encode, and kill this process before `part` gets its name; write the ids of its reader processes to `readers`."""
    patch, replace = pytest.MonkeyPatch(), Path.replace

    def die(source: Path, target: Path) -> Path:
        if target.name == part:
            readers.write_text(" ".join(str(child.pid) for child in multiprocessing.active_children()))
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(source, target)

    use_small_parts(patch)
    patch.setattr(Path, "replace", die)
    encode(path, out)


def test_a_killed_run_continues(
    npy: Path, tmp_path: Path, out: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("part-00001.parquet", "part-00002.parquet"):
        status = processes.run(tmp_path / "log", encode_and_die, part, npy, out, tmp_path / "readers")
        assert status == -signal.SIGKILL
        assert not (out / part).exists()
        assert list(out.glob(f".{part}.*"))
    assert encode(npy, out) == 0
    assert "Continuing after 128 images." in capsys.readouterr().out
    assert_rows(rows_of(out), list(range(200)), pixels_of(images))
    assert {file.name for file in out.iterdir()} == {RUN, *(f"part-0000{part}.parquet" for part in range(4))}


def test_the_readers_of_a_killed_run_end(tmp_path: Path, out: Path, images: Images) -> None:
    path, readers = tmp_path / "a.parquet", tmp_path / "readers"
    pq.write_table(pa.table({"image": [png(image) for image in images] * 10}), path, 50)
    status = processes.run(tmp_path / "log", encode_and_die, "part-00000.parquet", path, out, readers)
    assert status == -signal.SIGKILL
    ids = readers.read_text().split()
    assert ids
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in ids):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_full_disk_is_an_error_and_the_same_command_continues(
    npy: Path, out: Path, images: Images, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == "part-00002.parquet":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert encode(npy, out) == 1
    assert re.search(
        "Part 2 cannot be written to .*: No space left on device. Free space on the disk; the", last_line(capsys)
    )
    assert [row["id"] for row in rows_of(out)] == list(range(128))
    assert encode(npy, out) == 0
    assert_rows(rows_of(out), list(range(200)), pixels_of(images))


def test_an_interrupt_prints_how_to_continue(
    npy: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.encode.shards._encode", interrupted)
    assert encode(npy, out) == 130
    assert "The same command continues." in last_line(capsys)


def test_an_output_of_another_run_is_an_error(
    npy: Path, out: Path, tmp_path: Path, fitted: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(npy, out) == 0
    assert encode(npy, out, "--checkpoint", str(fitted)) == 2
    assert re.search("another checkpoint, mnist, made of .*digits.npy: give", last_line(capsys))
    np.save(tmp_path / "other.npy", images[:100])
    assert encode(tmp_path / "other.npy", out) == 2
    assert re.search("encodings of .*digits.npy as it was then, which .*other.npy is not", last_line(capsys))
    os.utime(npy, (0, 0))
    assert encode(npy, out) == 2
    assert re.search("encodings of .*digits.npy as it was then, which .*digits.npy is not", last_line(capsys))
    assert encode(npy, tmp_path) == 2
    assert "holds something else" in last_line(capsys)
    assert encode(npy, npy) == 2
    assert re.search("lies in", last_line(capsys))
    assert encode(npy, fitted) == 2
    assert re.search("is a file; give a folder", last_line(capsys))
    write(tmp_path / "in" / "a.png", png(images[0]))
    assert encode(tmp_path / "in", tmp_path / "in" / "out") == 2
    assert re.search("out lies in .*in, which is read: give", last_line(capsys))


def test_a_changed_picture_is_another_input(
    tmp_path: Path, out: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.png", png(images[0]))
    assert encode(tmp_path / "in", out) == 0
    write(tmp_path / "in" / "b.png", png(images[1]))
    assert encode(tmp_path / "in", out) == 2
    assert "as it was then" in last_line(capsys)


def test_an_output_keeps_its_draws_and_seed(npy: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encode(npy, out, "--draws", "2", "--seed", "5") == 0
    assert "elbo" in pq.read_schema(out / "part-00000.parquet").names
    for options in ([], ["--draws", "3", "--seed", "5"], ["--draws", "2"]):
        assert encode(npy, out, *options) == 2
        assert "was begun with --draws 2 --seed 5: give the same" in last_line(capsys)
    assert encode(npy, out, "--draws", "2", "--seed", "5") == 0
