from pathlib import Path

import numpy as np
import pytest

import vae
from tests.vae.conftest import BUNDLED


@pytest.fixture
def latents() -> vae.LatentSet:
    return vae.LatentSet(np.random.default_rng(0).random((5, 3), np.float32), np.arange(5))


def test_load_returns_what_was_saved_beside_the_checkpoint(tmp_path: Path, latents: vae.LatentSet) -> None:
    latents.save(tmp_path / "mnist.safetensors", "abc")
    assert [path.name for path in tmp_path.iterdir()] == ["mnist.latents.safetensors"]
    loaded = vae.LatentSet.load(tmp_path / "mnist.safetensors", "abc")
    assert loaded is not None
    assert np.array_equal(loaded.mean, latents.mean)
    assert np.array_equal(loaded.label, latents.label)


def test_none_without_a_file(tmp_path: Path) -> None:
    assert vae.LatentSet.load(tmp_path / "mnist.safetensors", "abc") is None


def test_latents_of_another_checkpoint_are_rejected(tmp_path: Path, latents: vae.LatentSet) -> None:
    latents.save(tmp_path / "mnist.safetensors", "abc")
    with pytest.raises(vae.CheckpointError, match=r"another checkpoint; remove the file\.$"):
        vae.LatentSet.load(tmp_path / "mnist.safetensors", "abd")


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_damaged_latents_are_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mnist.latents.safetensors").write_bytes(content)
    with pytest.raises(vae.CheckpointError, match="cannot be read"):
        vae.LatentSet.load(tmp_path / "mnist.safetensors", "abc")


def test_bundled_latents_belong_to_the_bundled_checkpoint(bundled: vae.Checkpoint) -> None:
    latents = vae.LatentSet.load(BUNDLED, bundled.sha256)
    assert latents is not None
    assert latents.mean.shape == (10_000, 3)
    assert np.unique(latents.label).tolist() == list(range(10))
