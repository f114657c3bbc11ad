from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from service.inference import onnx_graph
from service.inference.backend import Backend, FloatArray, OnnxBackend
from service.inference.onnx_graph import translate
from service.inference.onnx_model import UnsupportedModel
from service.inference.torch_backend import TorchBackend, choose_backend
from tests.vae.autoencoder import write_folder
from vae import VAE, VAEConfig
from vae.autoencoder_kl import load_diffusers

CONFIGS = (
    VAEConfig(),
    VAEConfig(image_shape=(1, 20, 32), hidden_layers=4, latent_dim=2, negative_slope=0.0),
    VAEConfig("conv", hidden_dim=16),
    VAEConfig("conv", (3, 64, 64), hidden_dim=16, latent_dim=8),
    VAEConfig("conv", (3, 37, 50), hidden_dim=16),
)


def untrained(config: VAEConfig) -> VAE:
    torch.manual_seed(0)
    return VAE(config).eval().requires_grad_(False)


def compute_all(backend: Backend) -> tuple[FloatArray, ...]:
    random = np.random.default_rng(1)
    images = random.random((5, *backend.config.image_shape), np.float32)
    z = random.standard_normal((5, *backend.config.latent_shape), np.float32)
    raw, sums = backend.decode_raw(z, "float32")
    pictures = raw.view(np.float32).reshape(images.shape)
    return (*backend.encode(images), backend.decode(z), *backend.reconstruct(z, images), pictures, sums)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_onnx_runtime_computes_what_torch_computes(config: VAEConfig) -> None:
    model = untrained(config)
    for ours, torchs in zip(compute_all(OnnxBackend(translate(model))), compute_all(TorchBackend(model)), strict=True):
        assert ours.shape == torchs.shape
        assert ours.dtype == np.float32
        assert np.allclose(ours, torchs, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_gpu_computes_what_the_cpu_does_in_each_thread(config: VAEConfig) -> None:
    wanted = compute_all(TorchBackend(untrained(config)))
    backend = TorchBackend(untrained(config).to("cuda"), "cuda")
    with ThreadPoolExecutor(backend.max_concurrent_batches, initializer=backend.begin_thread) as threads:
        for found in threads.map(compute_all, 20 * [backend]):
            for ours, cpus in zip(found, wanted, strict=True):
                assert np.allclose(ours, cpus, rtol=1e-2, atol=1e-2)  # a GPU's convolutions may round to TF32


def test_torch_computes_what_onnx_runtime_cannot() -> None:
    model = untrained(VAEConfig(hidden_dim=16))
    assert isinstance(choose_backend(model), OnnxBackend)
    assert isinstance(choose_backend(model, "torch"), TorchBackend)
    assert isinstance(choose_backend(model, device="meta"), TorchBackend)
    model.decoder[1] = nn.Softplus()
    assert isinstance(choose_backend(model), TorchBackend)
    with pytest.raises(UnsupportedModel, match="no translation of Softplus"):
        choose_backend(model, "onnx")


def test_torch_computes_an_autoencoder_kl(tmp_path: Path) -> None:
    write_folder(tmp_path)
    model = load_diffusers(tmp_path).model
    assert isinstance(choose_backend(model), TorchBackend)
    with pytest.raises(UnsupportedModel, match="no translation of AutoencoderKL"):
        choose_backend(model, "onnx")
    with pytest.raises(UnsupportedModel, match="on the CPU alone"):
        choose_backend(untrained(VAEConfig()), "onnx", "meta")


def test_a_wrong_translation_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def steeper(layer: nn.LeakyReLU) -> onnx_graph.Node:
        return "LeakyRelu", [], {"alpha": 1.1 * layer.negative_slope}

    monkeypatch.setitem(onnx_graph.TRANSLATIONS, nn.LeakyReLU, steeper)
    model = untrained(VAEConfig())
    assert isinstance(choose_backend(model), TorchBackend)
    with pytest.raises(UnsupportedModel, match="differs from torch"):
        choose_backend(model, "onnx")
