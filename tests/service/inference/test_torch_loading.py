"""Folders of diffusers: which the service starts with, and what it computes them in."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from service.inference.loading import StartError, load_checkpoint
from service.settings import BUNDLED, read_settings
from tests.vae.diffusion.networks import write_network

TINY = "AutoencoderTiny"


def start(folder: Path, *flags: str) -> str:
    """The dtype that a folder's network computes in."""
    return load_checkpoint(read_settings(["--checkpoint", str(folder), *flags])).backend.config.dtype


def test_results_are_float32_whatever_the_network_computes_in(tmp_path: Path) -> None:
    write_network(tmp_path, TINY)
    z = np.random.default_rng(0).standard_normal((1, 4, 2, 3), np.float32)
    exact, rough = (
        load_checkpoint(read_settings(["--checkpoint", str(tmp_path), "--dtype", dtype])).backend
        for dtype in ("float32", "bfloat16")
    )
    assert rough.config.dtype == "bfloat16"
    image, expected = rough.decode(z), exact.decode(z)
    assert image.dtype == np.float32
    assert 0 < np.abs(image - expected).max() < 0.05
    raw, _ = rough.decode_raw(z, "float32")
    np.testing.assert_allclose(np.clip(raw.view(np.float32).reshape(image.shape) / 2 + 0.5, 0, 1), image, atol=1e-6)


def test_a_network_that_is_upcast_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_network(tmp_path, "AutoencoderKL", force_upcast=True)
    assert start(tmp_path, "--dtype", "float16") == "float32"
    assert f"{tmp_path.name} computes in float32: its configuration has force_upcast." in caplog.text


@pytest.mark.parametrize(("capability", "warned"), [("amx_bf16", False), ("avx2", True)])
def test_a_processor_without_instructions_for_the_dtype_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capability: str, warned: bool
) -> None:
    write_network(tmp_path, TINY)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    with caplog.at_level(logging.WARNING, "vae-service"):
        start(tmp_path, "--dtype", "bfloat16")
    assert ("no instructions for bfloat16" in caplog.text) == warned


def test_checkpoints_of_vae_train_compute_in_float32() -> None:
    with pytest.raises(StartError, match="VAE_DTYPE bfloat16 is for folders of diffusers; leave it unset for mnist"):
        start(BUNDLED, "--dtype", "bfloat16")
