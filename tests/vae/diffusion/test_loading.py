"""Which folders are loaded, and which are refused; `test_autoencoder_kl.py` has the damaged ones."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.vae.diffusion.networks import create_network, write_network
from tests.vae.diffusion.test_autoencoder_kl import edit, load_error
from vae.diffusion.classes import CLASSES
from vae.diffusion.loading import WEIGHTS, load_diffusers
from vae.diffusion.model import DiffusionModel

pytestmark = pytest.mark.slow

TINY = "AutoencoderTiny"
X = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tiny() -> Any:
    return create_network(TINY)


def matches(folder: Path, network: Any) -> bool:
    mean, _ = load_diffusers(folder).model.encode(X)
    return torch.allclose(mean, network.encode(2 * X - 1).latents, atol=1e-2)


def test_the_folder_of_a_pipeline(tmp_path: Path, tiny: Any) -> None:
    tiny.save_pretrained(tmp_path / "vae")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert matches(tmp_path, tiny)
    assert load_diffusers(tmp_path).name == tmp_path.name
    (tmp_path / "vae" / "config.json").unlink()
    assert "the folder vae has no config.json" in load_error(tmp_path)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_files_of_weights(tmp_path: Path, tiny: Any, variant: str | None) -> None:
    whole, shards = tmp_path / "whole", tmp_path / "shards"
    tiny.save_pretrained(whole, variant=variant)
    tiny.save_pretrained(shards, variant=variant, max_shard_size="20KB")
    for folder in (whole, shards):
        files = sorted(folder.glob("*.safetensors"))
        assert (len(files) > 1) == (folder == shards)
        assert matches(folder, tiny)
        content = b"".join(file.read_bytes() for file in files)
        assert load_diffusers(folder).sha256 == hashlib.sha256(content).hexdigest()
    files[0].unlink()
    assert f"has no {files[0].name}" in load_error(shards)


@pytest.mark.parametrize("name", ["weights.bin", "../weights.safetensors", "", 3])
def test_an_index_names_only_safetensors_beside_it(tmp_path: Path, tiny: Any, name: object) -> None:
    tiny.save_pretrained(tmp_path)
    index = tmp_path / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"encoder.layers.0.weight": name}}))
    assert index.name in load_error(tmp_path)


def test_a_class_without_a_row(tmp_path: Path, tiny: Any) -> None:
    tiny.save_pretrained(tmp_path)
    edit(tmp_path, _class_name="AutoencoderKLMochi")
    message = load_error(tmp_path)
    assert "the class 'AutoencoderKLMochi'" in message
    assert all(name in message for name in CLASSES)


def test_a_class_that_the_installed_diffusers_lacks(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(__version__="0.30.0"))
    assert f"diffusers 0.30.0 has no {TINY}; pip install --upgrade diffusers." in load_error(tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (TINY, {"upsampling_scaling_factor": 1}, "computes the shape [3, 2, 2] instead of [3, 8, 8]"),
        (TINY, {"scaling_factor": -1.0}, "its normalisation of latents is unusable"),
        ("AutoencoderKLWan", {"scale_factor_spatial": 16}, "computes the shape [4, 3, 4, 4] instead of [4, 3, 2, 2]"),
        ("AutoencoderKLWan", {"latents_mean": [0.0]}, "it must have 4 means"),
        ("AutoencoderKLWan", {"latents_std": [1.0, 0.0, 1.0, 1.0]}, "positive"),
        ("AutoencoderKLQwenImage", {"input_channels": 4}, "in_channels is 4"),
    ],
)
def test_an_unusable_configuration(tmp_path: Path, kind: str, changes: dict[str, Any], message: str) -> None:
    write_network(tmp_path, kind, **changes)
    assert message in load_error(tmp_path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_network_computes_in_another_dtype(tmp_path: Path, tiny: Any, dtype: Any) -> None:
    tiny.save_pretrained(tmp_path)
    model = load_diffusers(tmp_path, dtype=dtype).model
    assert model.config.dtype == dtype
    assert {str(parameter.dtype) for parameter in model.parameters()} == {f"torch.{dtype}"}
    mean, log_variance = model.encode(X)
    images = model.decode(mean)
    assert {mean.dtype, log_variance.dtype, images.dtype} == {torch.float32}
    assert 0 < (mean - tiny.encode(2 * X - 1).latents).abs().max() < 0.05


@pytest.mark.parametrize(("dtype", "used"), [("float16", "float32"), ("bfloat16", "bfloat16")])
def test_force_upcast_is_for_float16(tmp_path: Path, dtype: Any, used: str) -> None:
    write_network(tmp_path, "AutoencoderKL", force_upcast=True)
    model = load_diffusers(tmp_path, dtype=dtype).model
    assert model.config.dtype == used
    assert {str(parameter.dtype) for parameter in model.parameters()} == {f"torch.{used}"}


def test_batch_norm_stays_precise_in_bfloat16(tmp_path: Path) -> None:
    network = write_network(tmp_path, "AutoencoderKLFlux2")
    mean = load_diffusers(tmp_path, dtype="bfloat16").model.config.normalisation.mean
    np.testing.assert_array_equal(mean, network.bn.running_mean.numpy())


def test_a_network_that_cannot_be_computed(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("not implemented for 'Half'\nmore")

    tiny.save_pretrained(tmp_path)
    monkeypatch.setattr(DiffusionModel, "encode", fail)
    assert "cannot be computed in float32 on cpu (not implemented for 'Half')." in load_error(tmp_path)
