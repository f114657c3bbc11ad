"""The client of the oldest and of the installed diffusers, both as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor

from tests.service.api.remote import calls
from tests.service.running import Running, running
from tests.tools import lacks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")]

OLDEST = "0.33.0"
"""The first with `remote_decode`."""
PACKAGES = (f"diffusers=={OLDEST}", "safetensors==0.5.3")
"""It calls a function that safetensors has no longer. Its other dependencies are those that are installed."""
ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def service(kl_folder: Path) -> Iterator[Running]:
    with running(checkpoint=kl_folder) as service:
        yield service


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the oldest diffusers into a folder; its wheels are in uv's cache the next time."""
    folder = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    environment = {"UV_HTTP_TIMEOUT": "20", "UV_HTTP_RETRIES": "1", **os.environ}
    command += ["--target", str(folder), *PACKAGES]
    installed = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    if installed.returncode:
        lacks(f"{' '.join(PACKAGES)} cannot be installed: {installed.stderr.strip()}")
    return folder


def check(given: dict[str, Any], network: Any) -> None:
    factor, shift = calls.FACTORS["scaling_factor"], calls.FACTORS["shift_factor"]
    images = network.decode(calls.Z / factor + shift).sample
    x = VaeImageProcessor().preprocess(calls.PICTURE)
    mean = network.encode(x).latent_dist.mean
    config = network.config
    expected = {
        "raw": images,
        "raw, packed": images,
        "raw, base64": images,
        "raw, the model's factors": network.decode(calls.Z / config.scaling_factor + config.shift_factor).sample,
        "raw, not scaled": network.decode(calls.Z).sample,
        "unit": (images / 2 + 0.5).clamp(0, 1),
        "latents": (mean - shift) * factor,
        "latents, picture": (mean - shift) * factor,
        "latents, not scaled": mean,
    }
    for name, tensor in expected.items():
        np.testing.assert_allclose(given[name], tensor, atol=1e-4, rtol=1e-4, err_msg=name)
    for name, tolerance in (("raw, float16", 5e-3), ("raw, bfloat16", 3e-2)):
        np.testing.assert_allclose(given[name], images, atol=tolerance, rtol=tolerance, err_msg=name)
    (picture,) = VaeImageProcessor().postprocess(images, output_type="pil")
    pixels = np.asarray(picture).astype(int)
    for name in ("picture, unit", "picture, raw", "picture, uint8", "picture, png"):
        assert np.abs(given[name] - pixels).max() <= 1, name
    assert given["jpg"].shape == pixels.shape
    assert np.abs((given["jpg"] - pixels.astype(float)).reshape(3, 8, 4, 8, 3).mean((1, 3))).max() < 20
    assert "shape is [1, 3, 12, 16]; [N, 4, 16, 16]" in str(given["error"])


def test_the_installed_client(service: Running, kl_network: Any) -> None:
    given = calls.call_all(f"http://127.0.0.1:{service.port}")
    assert str(given["version"]) == diffusers.__version__ != OLDEST
    check(given, kl_network)


def test_the_oldest_client(service: Running, kl_network: Any, oldest: Path, tmp_path: Path) -> None:
    file = tmp_path / "given.npz"
    command = [sys.executable, calls.__file__, f"http://127.0.0.1:{service.port}", str(file)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(oldest)}, cwd=ROOT, check=True, timeout=120)
    with np.load(file) as given:
        assert str(given["version"]) == OLDEST
        check(given, kl_network)
