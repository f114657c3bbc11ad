import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.vae.autoencoder import write_folder
from vae.diffusion.loading import CONFIG, WEIGHTS, load_diffusers
from vae.diffusion.model import DiffusionModel
from vae.diffusion.tiling import Tiling
from vae.metadata import CheckpointError


@pytest.fixture(scope="module")
def model(kl_folder: Path) -> DiffusionModel:
    return load_diffusers(kl_folder).model


def test_encode_and_decode_match_diffusers(kl_network: Any, model: DiffusionModel) -> None:
    x = torch.rand(2, 3, 32, 32)
    posterior = kl_network.encode(2 * x - 1).latent_dist
    mean, log_variance = model.encode(x)
    torch.testing.assert_close(mean, posterior.mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(log_variance, posterior.logvar, atol=1e-4, rtol=0)
    assert mean.shape == (2, *model.config.latent_shape)

    decode_raw = kl_network.decode(mean).sample
    assert decode_raw.abs().max() > 1.1
    torch.testing.assert_close(model.decode_raw(mean), decode_raw, atol=1e-4, rtol=0)
    torch.testing.assert_close(model.decode(mean), decode_raw / 2 + 0.5, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        model.to_image_(model.decode(mean)), (decode_raw / 2 + 0.5).clamp(0, 1), atol=1e-4, rtol=0
    )


def test_images_larger_than_the_tiling_has_whole_are_computed_in_tiles(kl_network: Any, model: DiffusionModel) -> None:
    z, x = torch.randn(1, 4, 30, 23), torch.rand(1, 3, 60, 46)
    whole = kl_network.decode(z).sample
    torch.testing.assert_close(model.decode_raw(z), whole, atol=1e-4, rtol=0)
    count = 0

    def between() -> None:
        nonlocal count
        count += 1

    model.between_tiles = between
    model.tiling = replace(model.tiling, whole=32**2, side=32)
    try:
        tiled, mean = model.decode_raw(z), model.encode(x)[0]
    finally:
        model.tiling = Tiling(2)
    assert count == 2 * (3 * 2 - 1)
    assert 1e-3 < (tiled - whole).abs().mean() < 0.3 * whole.std()
    near = kl_network.encode(2 * x - 1).latent_dist.mean
    assert 1e-4 < (mean - near).abs().mean() < 0.3 * near.std()


def test_reconstruction_loss_is_half_of_the_squared_error_of_the_image(model: DiffusionModel) -> None:
    x, decoded = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    image = decoded.clamp(0, 1)
    gaussian = torch.distributions.Normal(image, torch.ones(()))
    expected = (gaussian.log_prob(image) - gaussian.log_prob(x)).flatten(1).sum(1)
    torch.testing.assert_close(model.reconstruction_loss(decoded, x), expected)


def test_load_returns_model_and_metadata(model: DiffusionModel, kl_folder: Path) -> None:
    checkpoint = load_diffusers(kl_folder)
    assert checkpoint.name == "small"
    assert checkpoint.sha256 == hashlib.sha256((kl_folder / WEIGHTS).read_bytes()).hexdigest()
    assert not checkpoint.model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    config = checkpoint.model.config
    assert (config.image_shape, config.latent_shape, config.stride) == ((3, 32, 32), (4, 16, 16), 2)
    assert (config.scaling_factor, config.shift_factor) == (0.18215, 0.25)


def test_shapes(model: DiffusionModel) -> None:
    config = model.config
    assert config.image_shape_of((4, 3, 5)) == (3, 6, 10)
    assert all(config.image_shape_of(shape) is None for shape in [(3, 4, 4), (4, 0, 4), (4, 4), (1, 4, 4, 4)])
    assert config.accepts_shape((3, 6, 2))
    assert not any(map(config.accepts_shape, [(1, 8, 8), (3, 1, 8), (3, 7, 2), (3, 2, 7), (3, 0, 8), (8, 8)]))
    assert config.image_shape_near(33, 46) == (3, 32, 46)
    assert config.image_shape_near(1, 1) == (3, 2, 2)


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    write_folder(tmp_path).half().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load_diffusers(tmp_path).model.parameters()} == {torch.float32}


def load_error(folder: Path) -> str:
    """The message with which `folder` is rejected."""
    with pytest.raises(CheckpointError) as caught:
        load_diffusers(folder)
    message = str(caught.value)
    assert message.startswith(f"The checkpoint {folder} cannot be used: ")
    assert message.endswith(".")
    return message


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_file_is_missing(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path)
    (tmp_path / name).unlink()
    assert f"has no {name}" in load_error(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "VQModel"}, "for the class 'VQModel'"),
        ({"sample_size": 33}, "sample_size is 33; it must be a multiple of 2"),
        ({"sample_size": [32, 32]}, "sample_size is [32, 32]"),
        ({"latent_channels": 8}, "diffusers cannot read it"),
        ({"layers_per_block": 2}, "is missing"),
        ({"use_quant_conv": False}, "quant_conv.bias is not part of it"),
        ({"norm_num_groups": 7}, "diffusers cannot read it"),
    ],
)
def test_another_configuration(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_folder(tmp_path)
    edit(tmp_path, **changes)
    assert message in load_error(tmp_path)


def test_channels_that_differ(tmp_path: Path) -> None:
    write_folder(tmp_path, in_channels=4)
    assert "in_channels is 4 and out_channels is 3" in load_error(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000])
def test_an_invalid_configuration(tmp_path: Path, content: str) -> None:
    write_folder(tmp_path)
    (tmp_path / CONFIG).write_text(content)
    assert "is not a JSON object" in load_error(tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    write_folder(tmp_path)
    weights = tmp_path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "diffusers cannot read it" in load_error(tmp_path)


def test_weights_must_be_finite(tmp_path: Path) -> None:
    write_folder(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["decoder.conv_in.bias"][3] = float("nan")
    save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
    assert "decoder.conv_in.bias holds values that are not finite" in load_error(tmp_path)


def test_diffusers_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert "pip install 'vae-service[diffusers]'" in load_error(tmp_path)


def test_only_loading_a_folder_imports_diffusers() -> None:
    code = "import sys, vae, service.app; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
