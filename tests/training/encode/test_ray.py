"""Encoding on a Ray cluster of two node processes."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ray.cluster import GCS, HOST, Cluster, cluster, wait_until
from tests.training.encode.encoding import ROOT, Images, assert_rows, pixels_of, png, rows_of, write_parquet
from training.data.dataset import DataError
from training.encode.ray import ShardEncoder

pytestmark = pytest.mark.slow


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: extra `ray`")


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    """Two node processes of one processor each."""
    with cluster(nodes=2) as ray:
        yield ray


def command(path: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "training", "encode", str(path), "--out", str(out), *options]


def on(ray: Cluster, path: Path, out: Path) -> list[str]:
    return command(path, out, "--ray", f"{HOST}:{GCS}")


def run_on(ray: Cluster, path: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Use a new process, because Ray leaves threads and sockets behind."""
    arguments = on(ray, path, out)
    return subprocess.run(
        arguments, cwd=ROOT, env=ray.environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.ray
@needs_ray
def test_a_ray_cluster_encodes_the_same_and_continues(ray: Cluster, tmp_path: Path, out: Path, images: Images) -> None:
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
        assert_rows(rows_of(out), good, pixels_of(images[good]))
        assert [row["id"] for row in rows_of(out, "errors")] == [7]
        assert len(list(out.glob("part-*"))) == 4
        assert ("Continuing after 100 images." in done.stdout) == going_on
        for shard in (1, 2):
            (out / f"part-0000{shard}.parquet").unlink()


@pytest.mark.ray
@needs_ray
def test_an_error_on_a_machine_of_a_cluster_is_printed(ray: Cluster, tmp_path: Path, out: Path) -> None:
    write_parquet(tmp_path / "a.parquet", image=[bytes(range(100)) * 20])
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:40] = bytes(36)
    (tmp_path / "a.parquet").write_bytes(content)
    done = run_on(ray, tmp_path / "a.parquet", out)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r".*a\.parquet cannot be read as Parquet: .* Repair or remove it\.", last)


@needs_ray
@pytest.mark.ray
def test_a_path_that_a_machine_cannot_see_is_an_error(tmp_path: Path) -> None:
    from training.encode.ray import _check_shared  # noqa: PLC0415

    _check_shared(tmp_path)
    with pytest.raises(DataError, match=r"none is not seen on .*: input and output must lie where all"):
        _check_shared(tmp_path, tmp_path / "none")


@pytest.mark.ray
@needs_ray
def test_a_missing_cluster_is_an_error(npy: Path, out: Path) -> None:
    done = subprocess.run(
        command(npy, out, "--ray", "127.0.0.1:1"), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "--ray 127.0.0.1:1 cannot be reached: " in done.stderr.strip().splitlines()[-1]


@pytest.mark.ray
@needs_ray
def test_a_part_of_a_lost_machine_is_encoded_again(ray: Cluster, tmp_path: Path, out: Path) -> None:
    """This test comes last, because it leaves the cluster with one node."""
    images = 1_000_000
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (images, 28, 28))
    process = subprocess.Popen(on(ray, tmp_path / "a.npy", out), cwd=ROOT, env=ray.environment)
    try:
        wait_until(lambda: len(ray.actors(ShardEncoder.__name__)) == 2)
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
