"""The torch backend on a GPU, with tensors that have a device but no values: an operation across devices is refused."""

from collections.abc import Iterator
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from service.inference.torch_backend import Model, TorchBackend
from vae import VAE, VAEConfig

CONFIGS = (VAEConfig(hidden_dim=8), VAEConfig("conv", (3, 37, 50), hidden_dim=8))


@pytest.fixture(autouse=True)
def gpu_without_values(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls of the CUDA driver do nothing, and a copy on the CPU gives zeros."""
    monkeypatch.setattr(torch.cuda, "synchronize", Mock())
    monkeypatch.setattr(torch.cuda, "current_stream", Mock())
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)

    def zeros(tensor: FakeTensor) -> object:
        assert tensor.device.type == "cpu"
        return np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch."))

    monkeypatch.setattr(FakeTensor, "numpy", zeros, raising=False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def network_on_the_gpu(config: VAEConfig) -> TorchBackend:
    with torch.device("cuda"):
        model: Model = VAE(config).eval().requires_grad_(False)
    return TorchBackend(model, "cuda")


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_all_that_the_engine_asks_for_is_computed_on_the_gpu(config: VAEConfig) -> None:
    network = network_on_the_gpu(config)
    images = np.zeros((5, *config.image_shape), np.float32)
    z = np.zeros((5, config.latent_dim), np.float32)
    assert [array.shape for array in network.encode(images)] == [z.shape, z.shape]
    assert network.decode(z).shape == images.shape
    assert [array.shape for array in network.reconstruct(z, images)] == [images.shape, (5,)]
    assert [array.shape for array in network.decode_raw(z, "bfloat16")] == [(5, 2 * config.pixels), (5,)]
    assert network.max_concurrent_batches == 2
