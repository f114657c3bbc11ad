"""Backends of a torch model, which tests build or change."""

from typing import Literal

from service.inference.backend import Backend
from service.inference.onnx_backend import OnnxBackend
from service.inference.torch_backend import TorchBackend
from vae import VAE
from vae.arrays import Arrays


def arrays_of(model: VAE) -> Arrays:
    """The tensors of `model`, as its checkpoint has them."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def backend_of(model: VAE, runtime: Literal["onnx", "torch"] = "onnx") -> Backend:
    """The backend that the service creates for a checkpoint of `model`."""
    return TorchBackend(model) if runtime == "torch" else OnnxBackend(model.config, arrays_of(model))
