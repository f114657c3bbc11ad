"""Every kind of input gives the rows that the model computes, each exactly once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import vae
from tests.training.encode.encoding import (
    ROOT,
    Images,
    assert_rows,
    encode,
    pixels_of,
    png,
    rows_of,
    write,
    write_parquet,
)
from training.__main__ import main
from training.encode.parquet import open_parquet

pytestmark = pytest.mark.slow


def test_an_array_gives_the_rows_of_the_model(
    npy: Path, out: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(npy, out) == 0
    assert_rows(rows_of(out), list(range(200)), pixels_of(images))
    assert [pq.read_metadata(out / f"part-0000{shard}.parquet").num_rows for shard in range(4)] == [64, 64, 64, 8]
    latent = pa.list_(pa.float32(), 3)
    assert pq.read_schema(out / "part-00000.parquet").types == [pa.int64(), latent, latent, pa.float32(), pa.float32()]
    assert not rows_of(out, "errors")
    printed = capsys.readouterr()
    assert "Encoded 200 images" in printed.out
    assert "200/200" in printed.err


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
    assert encode(tmp_path / "a.npy", out) == 0
    assert_rows(rows_of(out), list(range(200)), pixels_of(images))


def test_floats_are_not_rounded_to_bytes(tmp_path: Path, out: Path, images: Images) -> None:
    between = (images[:50] / 255 * 0.99).astype(np.float32)
    np.save(tmp_path / "a.npy", between)
    assert encode(tmp_path / "a.npy", out) == 0
    assert_rows(rows_of(out), list(range(50)), torch.from_numpy(between[:, None]))


def test_pictures_in_folders(tmp_path: Path, out: Path, images: Images) -> None:
    names = [f"{number % 3}/{number:03}.png" for number in range(200)]
    for name, image in zip(names, images, strict=True):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(image))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    assert encode(tmp_path / "in", out) == 0
    order = sorted(range(200), key=lambda number: names[number])
    rows = sorted(rows_of(out), key=lambda row: row["id"])
    assert_rows(rows, [names[number] for number in order], pixels_of(images[order]))


def test_pictures_are_resized_and_converted_for_the_model(tmp_path: Path, out: Path) -> None:
    """Resized as the pictures of the training were, with the channels of the model, without alpha."""
    checkpoint = tmp_path / "model.safetensors"
    model = vae.VAE(vae.VAEConfig(image_shape=(3, 4, 6), hidden_dim=8))
    vae.save(checkpoint, model, training={"pictures": {"fit": "cover"}}, metrics={})
    (tmp_path / "in").mkdir()
    wide = np.zeros((8, 20), np.uint8)
    wide[:, 4:16] = 255
    Image.fromarray(wide).save(tmp_path / "in" / "grey.png")
    Image.new("RGBA", (3, 2), (255, 0, 51, 7)).save(tmp_path / "in" / "red.webp", lossless=True)
    assert encode(tmp_path / "in", out, "--checkpoint", str(checkpoint)) == 0
    red = torch.tensor([7 / 255, 0, 1 / 255]).view(3, 1, 1).expand(3, 4, 6)
    assert_rows(rows_of(out), ["grey.png", "red.webp"], torch.stack([torch.ones(3, 4, 6), red]), checkpoint)


def test_dangling_links_are_listed_as_errors(tmp_path: Path, out: Path, images: Images) -> None:
    write(tmp_path / "in" / "a.png", png(images[0]))
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "in" / "c.png").symlink_to("c.png")
    os.mkfifo(tmp_path / "in" / "d.png")
    assert encode(tmp_path / "in", out) == 0
    assert [row["id"] for row in rows_of(out)] == ["a.png"]
    assert [row["id"] for row in rows_of(out, "errors")] == ["b.png", "c.png"]


def test_folders_behind_links_are_encoded_once(tmp_path: Path, out: Path, images: Images) -> None:
    write(tmp_path / "in" / "a.png", png(images[0]))
    write(tmp_path / "elsewhere" / "b.png", png(images[1]))
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "linked too").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "in")
    assert encode(tmp_path / "in", out) == 0
    assert [row["id"] for row in rows_of(out)] == ["a.png", "linked/b.png"]


@pytest.mark.parametrize("row_group", [10, 1000])
def test_parquet_with_and_without_ids(row_group: int, tmp_path: Path, out: Path, images: Images) -> None:
    pictures = [png(image) for image in images]
    ids = [f"digit {number}" for number in range(200)]
    pq.write_table(pa.table({"id": ids, "image": pictures, "label": [0] * 200}), tmp_path / "a.parquet", row_group)
    assert encode(tmp_path / "a.parquet", out) == 0
    assert_rows(rows_of(out), ids, pixels_of(images))
    pq.write_table(pa.table({"png": pictures}), tmp_path / "b.parquet", row_group)
    assert encode(tmp_path / "b.parquet", tmp_path / "out2") == 0
    assert_rows(rows_of(tmp_path / "out2"), list(range(200)), pixels_of(images))


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
    assert encode(path, out) == 0
    assert [pq.read_metadata(out / f"part-0000{shard}.parquet").num_rows for shard in range(4)] == [64, 64, 64, 8]
    for shard in (0, 2):
        (out / f"part-0000{shard}.parquet").unlink()
    assert encode(path, out) == 0
    assert_rows(rows_of(out), list(range(200)), pixels_of(images))


def test_a_folder_of_parquet_as_hugging_face_has_it(tmp_path: Path, out: Path, images: Images) -> None:
    (tmp_path / "in").mkdir()
    for file in range(2):
        column = [{"bytes": png(image), "path": None} for image in images[100 * file : 100 * (file + 1)]]
        pq.write_table(pa.table({"image": column, "thumbnail": [b""] * 100}), tmp_path / "in" / f"{file}.parquet")
    assert encode(tmp_path / "in", out) == 0
    assert_rows(rows_of(out), list(range(200)), pixels_of(images))


def test_ids_of_a_dictionary_type(tmp_path: Path, out: Path, images: Images) -> None:
    ids = [f"{number // 2}" for number in range(200)]
    table = pa.table({"id": pa.array(ids).dictionary_encode(), "image": [png(image) for image in images]})
    pq.write_table(table, tmp_path / "a.parquet", 50)
    assert encode(tmp_path / "a.parquet", out) == 0
    assert_rows(rows_of(out), ids, pixels_of(images))


def test_the_commands_of_the_readme_run(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "training.md").read_text().partition("\n## Encoding many images\n")[2].partition("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", images)
    write(Path("pictures/0.png"), png(images[0]))
    for file in ("images.parquet", "tables/0.parquet", "tables/1.parquet"):
        write_parquet(Path(file), image=[png(image) for image in images[:3]])
    commands = re.findall(r"^vae-train (encode .*?)(?: +#.*)?$", page, re.MULTILINE)
    here = [command.split() for command in commands if "--ray" not in command]
    assert len(here) == len(commands) - 1
    for command in here:
        assert main(command) == 0
        assert rows_of(Path(command[-1])), command
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(example, namespace)
    assert len(namespace["table"]) == len(images)
