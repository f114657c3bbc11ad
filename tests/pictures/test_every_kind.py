"""`vae-train encode`, the service's routes and the client give the same latent for a picture of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vae
from tests.pictures.kinds import kinds
from tests.service.pictures import read_npy
from tests.service.running import Running, running
from training.__main__ import main
from vae_client import Client

KINDS = kinds()
SIDE = 24
ROUNDING = 1e-6
"""By how much latents of the same pixels may differ where they are computed in another order."""
CLEAR_4 = "grey-4-with-one-clear-grey.png"
"""Once Pillow has decoded it, its clear grey is another one: Pillow scales the samples alone."""
Latents = dict[str, NDArray[np.float32]]


class Prepared(NamedTuple):
    """A service of a checkpoint that says how its pictures were prepared, and the pictures as files."""

    fit: str
    checkpoint: Path
    folder: Path
    service: Running


@pytest.fixture(scope="module", params=[("contain", 1), ("cover", 3), ("stretch", 3)], ids=str)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    fit, channels = request.param
    root = tmp_path_factory.mktemp("kinds")
    torch.manual_seed(0)
    model = vae.VAE(vae.VAEConfig(image_shape=(channels, SIDE, SIDE), hidden_dim=16, latent_dim=8))
    vae.save(root / "model.safetensors", model, training={"pictures": {"fit": fit}}, metrics={})
    for name, body in KINDS.items():
        (root / "pictures" / name).parent.mkdir(exist_ok=True)
        (root / "pictures" / name).write_bytes(body)
    with running(checkpoint=root / "model.safetensors", runtime="torch") as service:
        yield Prepared(fit, root / "model.safetensors", root / "pictures", service)


@pytest.fixture(scope="module")
def expected(prepared: Prepared) -> Latents:
    """What `POST /encode` says of each picture."""
    return {name: post(prepared, "/encode", body)[0] for name, body in KINDS.items()}


def post(prepared: Prepared, path: str, body: bytes) -> NDArray[np.float32]:
    headers = {"content-type": "image/png", "accept": "application/x-npy" if path == "/encode" else "tensor/binary"}
    answer = prepared.service.client.post(path, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return read_npy(answer.content) if path == "/encode" else np.frombuffer(answer.content, np.float32)


def assert_same(found: Latents, expected: Latents, tolerance: float = 0) -> None:
    assert found.keys() == expected.keys()
    differences = {name: float(np.abs(found[name] - latent).max()) for name, latent in expected.items()}
    assert not {name: difference for name, difference in differences.items() if difference > tolerance}


def test_the_kinds_differ(expected: Latents) -> None:
    assert len(KINDS) >= 30
    assert all(np.isfinite(latent).all() for latent in expected.values())
    assert len({latent.tobytes() for latent in expected.values()}) >= 30


def encode(prepared: Prepared, given: Path, out: Path) -> Latents:
    options = ["--checkpoint", str(prepared.checkpoint), "--batch-size", "1", "--device", "cpu"]
    assert main(["encode", str(given), "--out", str(out), *options]) == 0
    assert not list(out.glob("errors-*.parquet"))
    rows = pq.read_table(sorted(out.glob("part-*.parquet"))).to_pylist()
    return {row["id"]: np.array(row["mean"], np.float32) for row in rows}


def test_encode_of_a_folder(prepared: Prepared, expected: Latents, tmp_path: Path) -> None:
    assert_same(encode(prepared, prepared.folder, tmp_path / "out"), expected, ROUNDING)


def test_encode_of_a_table(prepared: Prepared, expected: Latents, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": list(KINDS), "image": list(KINDS.values())}), tmp_path / "kinds.parquet")
    assert_same(encode(prepared, tmp_path / "kinds.parquet", tmp_path / "out"), expected, ROUNDING)


def test_remote_encode(prepared: Prepared, expected: Latents) -> None:
    assert_same({name: post(prepared, "/remote/encode", body) for name, body in KINDS.items()}, expected)


def test_the_client(prepared: Prepared, expected: Latents) -> None:
    with Client(f"http://127.0.0.1:{prepared.service.port}") as client:
        assert_same({name: client.encode(body).mean for name, body in KINDS.items()}, expected)
        assert_same({name: client.encode(prepared.folder / name).mean for name in KINDS}, expected)
        batch = client.encode(list(KINDS.values())).mean
    assert_same(dict(zip(KINDS, batch, strict=True)), expected, ROUNDING)


def test_the_client_with_an_opened_picture(prepared: Prepared, expected: Latents) -> None:
    """What a JPEG decoder leaves out for a smaller or grey picture is there in one that was decoded before."""
    grey = vae.load(prepared.checkpoint).model.config.image_shape[0] == 1
    opened: Latents = {}
    with Client(f"http://127.0.0.1:{prepared.service.port}") as client:
        for name in KINDS.keys() - {CLEAR_4}:
            with Image.open(prepared.folder / name) as image:
                opened[name] = client.encode(image).mean
    expected = {name: latent for name, latent in expected.items() if name != CLEAR_4}
    lossy = {name for name in expected if name.endswith(("jpg", "jpeg")) and (grey or name == "large.jpg")}
    for name in lossy:
        np.testing.assert_allclose(opened.pop(name), expected[name], atol=0.02)
    assert_same(opened, {name: latent for name, latent in expected.items() if name not in lossy})
