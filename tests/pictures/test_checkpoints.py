"""A checkpoint says how the pictures of its training were prepared; others are prepared alike, if nobody says else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

import vae
from tests.service.pictures import png, read_npy
from tests.service.running import Running, running
from training.__main__ import main
from vae_client import Client

OBLONG = np.zeros((8, 24), np.uint8)
OBLONG[:, :12] = 255


def mean(service: Running, query: str = "") -> NDArray[np.float32]:
    headers = {"content-type": "image/png", "accept": "application/x-npy"}
    answer = service.client.post(f"/encode{query}", content=png(OBLONG), headers=headers)
    return np.asarray(read_npy(answer.content)[0], np.float32)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a folder of oblong pictures."""
    root = tmp_path_factory.mktemp("fitted")
    (root / "pictures").mkdir()
    for number in range(20):
        (root / "pictures" / f"{number}.png").write_bytes(png(np.roll(OBLONG, number, 1)))
    options = ["--image-size", "8", "--epochs", "1", "--hidden-dim", "8", "--device", "cpu", "--data-dir", str(root)]
    out = root / "model.safetensors"
    assert main(["fit", "--dataset", f"folder:{root / 'pictures'}", "--out", str(out), *options]) == 0
    return out


def test_fit_records_how_a_folder_was_prepared(fitted: Path) -> None:
    assert vae.load(fitted).training["pictures"] == {"fit": "cover"}


def test_the_service_prepares_pictures_so(fitted: Path) -> None:
    with running(checkpoint=fitted) as service, Client(f"http://127.0.0.1:{service.port}") as client:
        assert service.client.get("/model").json()["training"]["pictures"] == {"fit": "cover"}
        default, cover, contain = (mean(service, query) for query in ("", "?fit=cover", "?fit=contain"))
        reconstructions = [
            service.client.post(f"/reconstruct{query}", content=png(OBLONG), headers={"content-type": "image/png"})
            for query in ("", "?fit=cover", "?fit=contain")
        ]
        assert np.array_equal(client.encode(png(OBLONG)).mean, cover)
        assert np.array_equal(client.encode(png(OBLONG), fit="contain").mean, contain)
    assert np.array_equal(default, cover)
    assert not np.array_equal(default, contain)
    assert reconstructions[0].content == reconstructions[1].content != reconstructions[2].content


def test_a_checkpoint_that_says_nothing_puts_bars(tmp_path: Path) -> None:
    """As the bundled one: the service and `encode` alike."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(OBLONG))
    assert main(["encode", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    ((encoded,),) = pq.read_table(tmp_path / "out" / "part-00000.parquet", columns=["mean"]).to_pydict().values()
    with running() as service:
        contain = mean(service, "?fit=contain")
        assert np.array_equal(mean(service), contain)
        assert np.abs(mean(service, "?fit=cover") - contain).max() > 0.1
    assert np.abs(np.array(encoded) - contain).max() < 1e-4


@pytest.mark.parametrize("pictures", [{"fit": "crop"}, {"fit": ["cover"]}, "cover", None])
def test_what_no_release_has_written_is_refused(pictures: object, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    vae.save(path, vae.VAE(vae.VAEConfig(hidden_dim=4)), training={"pictures": pictures}, metrics={})
    with pytest.raises(
        vae.CheckpointError, match=r"its pictures were prepared with .*; this release knows contain, cover, stretch"
    ):
        vae.load(path)
