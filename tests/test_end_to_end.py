"""From a folder of colour pictures to responses over HTTP."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.service.running import running
from training.__main__ import main

pytestmark = pytest.mark.slow

COUNT = 60


def draw_pictures(folder: Path) -> None:
    """Write discs at random positions, 64×64 pixels, in one sub-folder per colour."""
    random = np.random.default_rng(0)
    down, right = np.mgrid[:64, :64]
    for number in range(COUNT):
        centre, colour = random.uniform(16, 48, 2), number % 3
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[(down - centre[0]) ** 2 + (right - centre[1]) ** 2 < 144, colour] = 255
        path = folder / "rgb"[colour] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def test_a_colour_model_is_trained_and_served_with_no_change(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "discs")
    options = ["--dataset", f"folder:{tmp_path / 'discs'}", "--data-dir", str(tmp_path), "--device", "cpu"]
    network = ["--architecture", "conv", "--hidden-dim", "16", "--latent-dim", "8", "--epochs", "2"]
    checkpoint = tmp_path / "discs.safetensors"
    assert main(["fit", *options, *network, "--out", str(checkpoint)]) == 0

    with running(checkpoint=checkpoint) as service:
        client = service.client
        model = client.get("/model").json()
        assert (model["image_shape"], model["latent_dim"], model["architecture"]) == ([3, 64, 64], 8, "conv")
        assert model["training"]["dataset"] == "folder:discs"

        picture = next((tmp_path / "discs" / "r").iterdir()).read_bytes()
        png = {"content-type": "image/png"}
        posterior = client.post("/encode", content=picture, headers=png).json()
        assert len(posterior["mean"]) == len(posterior["log_variance"]) == 8
        decoded = client.post("/decode", json=posterior["mean"]).content
        again = client.post("/reconstruct", content=picture, headers=png).content
        assert decoded == again
        image = Image.open(io.BytesIO(decoded))
        assert (image.mode, image.size) == ("RGB", (64, 64))
        grid = Image.open(io.BytesIO(client.get("/sample?n=4&seed=1").content))
        assert (grid.mode, grid.size) == ("RGB", (128, 128))
        latents = client.get("/latents").json()
        assert len(latents["mean"]) == len(latents["label"]) == 7  # about a tenth
        assert {len(mean) for mean in latents["mean"]} == {8}
        assert set(latents["label"]) <= {0, 1, 2}
        pixels = client.post("/decode", json=[[0.0] * 8] * 2, headers={"accept": "application/json"}).json()["pixels"]
        assert np.array(pixels).shape == (2, 3, 64, 64)
