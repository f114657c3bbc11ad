from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import torch

from service.inference.backend import Backend, FloatArray
from service.inference.onnx_backend import decoder_graph, encoder_graph
from service.inference.torch_backend import TorchBackend
from tests.service.inference.backends import arrays_of, backend_of
from vae import VAE, VAEConfig

CONFIGS = (
    VAEConfig(),
    VAEConfig(image_shape=(1, 20, 32), hidden_layers=4, latent_dim=2, negative_slope=0.0),
    VAEConfig("conv", hidden_dim=16),
    VAEConfig("conv", (3, 64, 64), hidden_dim=16, latent_dim=8),
    VAEConfig("conv", (3, 37, 50), hidden_dim=16),
    VAEConfig(likelihood="continuous-bernoulli"),
    VAEConfig("conv", (3, 9, 14), hidden_dim=16, likelihood="continuous-bernoulli"),
    VAEConfig(likelihood="gaussian"),
    VAEConfig("conv", (3, 9, 14), hidden_dim=16, likelihood="gaussian", scale="pixel"),
    VAEConfig("conv", (3, 9, 14), hidden_dim=16, likelihood="logistic"),
    VAEConfig(hidden_dim=32, likelihood="logistic", scale="pixel"),
    VAEConfig("resnet", hidden_dim=24, hidden_layers=1),
    VAEConfig("resnet", (3, 37, 50), hidden_dim=32, latent_map=(5, 10, 13)),
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
    losses = (*backend.reconstruct(z, images), backend.pixel_losses(z, images))
    return (*backend.encode(images), backend.decode(z), *losses, pictures, sums)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_onnx_runtime_computes_what_torch_computes(config: VAEConfig) -> None:
    model = untrained(config)
    for ours, torchs in zip(compute_all(backend_of(model)), compute_all(TorchBackend(model)), strict=True):
        assert ours.shape == torchs.shape
        assert ours.dtype == np.float32
        assert np.allclose(ours, torchs, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_gpu_computes_what_the_cpu_does_in_each_thread(config: VAEConfig) -> None:
    expected = compute_all(TorchBackend(untrained(config)))
    backend = TorchBackend(untrained(config).to("cuda"), "cuda")
    with ThreadPoolExecutor(backend.max_concurrent_batches, initializer=backend.begin_thread) as threads:
        for found in threads.map(compute_all, 20 * [backend]):
            for ours, cpus in zip(found, expected, strict=True):
                assert np.allclose(ours, cpus, rtol=1e-2, atol=1e-2)  # a GPU's convolutions may round to TF32


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_graphs_are_valid_onnx(config: VAEConfig) -> None:
    """By onnx's own checker, which infers all shapes."""
    arrays = arrays_of(untrained(config))
    for graph in (encoder_graph(config, arrays), decoder_graph(config, arrays)):
        model = onnx.load_from_string(graph.serialize())
        for tensor in model.graph.initializer:
            if tensor.name in graph.weights:
                tensor.CopyFrom(onnx.numpy_helper.from_array(graph.weights[tensor.name], tensor.name))
        onnx.checker.check_model(model, full_check=True)
