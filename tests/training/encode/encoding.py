"""Run `vae-train encode` and compare its rows with the model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vae
from training.__main__ import main
from training.encode import parquet, rows
from vae import kl_divergence, reconstruction_loss

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "weights" / "mnist.safetensors"
Row = dict[str, Any]
Images = NDArray[np.uint8]


def use_small_parts(patch: pytest.MonkeyPatch) -> None:
    """Two hundred digits are four parts."""
    for module in (rows, parquet):
        patch.setattr(module, "SHARD_ROWS", 64)


def encode(path: Path, out: Path, *options: str) -> int:
    return main(["encode", str(path), "--out", str(out), "--batch-size", "50", *options])


def rows_of(out: Path, kind: str = "part") -> list[Row]:
    return [row for file in sorted(out.glob(f"{kind}-*.parquet")) for row in pq.read_table(file).to_pylist()]


def png(image: NDArray[Any], kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


@torch.inference_mode()
def expected(pixels: torch.Tensor, checkpoint: Path = BUNDLED) -> dict[str, NDArray[np.float32]]:
    """Compute the columns of images (N, C, H, W) in [0, 1] by the model, one image at a time."""
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


def assert_rows(rows: list[Row], ids: list[Any], pixels: torch.Tensor, checkpoint: Path = BUNDLED) -> None:
    assert [row["id"] for row in rows] == ids
    for name, values in expected(pixels, checkpoint).items():
        got = np.array([row[name] for row in rows])
        tolerance = 1e-5 if name in ("mean", "log_variance") else 1e-5 * np.abs(values).max()
        assert got.shape == values.shape
        assert np.abs(got - values).max() < tolerance, name


def pixels_of(images: Images) -> torch.Tensor:
    return torch.from_numpy(images[:, None] / 255).float()


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def write_parquet(path: Path, **columns: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
