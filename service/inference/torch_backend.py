"""Computation of a model by torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from service.inference.backend import Backend, ByteArray, FloatArray, OnnxBackend
from service.inference.checkpoints import read_checkpoint
from service.inference.onnx_graph import translate
from service.inference.onnx_model import CheckpointInfo, UnsupportedModel
from service.malloc import tune_malloc
from service.settings import Runtime, Settings
from vae.autoencoder_kl import AutoencoderKL
from vae.model import VAE

Model = VAE | AutoencoderKL


class DeviceError(Exception):
    """torch cannot use a device; the message is a sentence."""


class TorchBackend:
    """A model on any device.

    With CUDA each thread has its own stream and copies through pinned memory, so that one batch is computed while
    another is copied.
    """

    def __init__(self, model: Model, device: torch.device | str = "cpu") -> None:
        self.config = model.config
        self.model = model
        self._device = torch.device(device)
        self._threads = torch.get_num_threads()
        self._cuda = self._device.type == "cuda"
        self.max_concurrent_batches = 2 if self._cuda and not self.config.per_sample else 1
        lay_out(model)
        if self._cuda:
            torch.cuda.synchronize(self._device)  # other streams do not wait for the weights

    def encode(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As Backend."""
        with torch.inference_mode():
            mean, log_variance = self._arrays(*self.model.encode(self._tensor(images)))
            return mean, log_variance

    def decode(self, z: FloatArray) -> FloatArray:
        """As Backend."""
        with torch.inference_mode():
            images: FloatArray
            (images,) = self._arrays(self.model.to_image_(self.model.decode(self._tensor(z))))
            return images

    def reconstruct(self, z: FloatArray, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As Backend."""
        with torch.inference_mode():
            decoded = self.model.decode(self._tensor(z))
            loss = self.model.reconstruction_loss(decoded, self._tensor(images))
            image, loss_array = self._arrays(self.model.to_image_(decoded), loss)
            return image, loss_array

    def decode_raw(self, z: FloatArray, dtype: str) -> tuple[ByteArray, FloatArray]:
        """As Backend."""
        with torch.inference_mode():
            images = self.model.decode_raw(self._tensor(z))
            wanted: torch.dtype = getattr(torch, dtype)
            values = images.to(wanted, memory_format=torch.contiguous_format).flatten(1).view(torch.uint8)
            raw, sums = self._arrays(values, images.sum((1, 2, 3)))
            return raw, sums

    def begin_thread(self) -> None:
        """As Backend. In a thread that torch did not create, BLAS uses all cores until set_num_threads is called."""
        torch.set_num_threads(self._threads)
        tune_malloc()
        if self._cuda:
            torch.cuda.set_stream(torch.cuda.Stream(self._device))

    def _tensor(self, array: FloatArray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._cuda else tensor.to(self._device)

    def _arrays(self, *tensors: Tensor) -> list[Any]:
        """Copy tensors to NumPy. Call it in inference mode, outside of which it takes ten times as long."""
        copies = [tensor.to("cpu", non_blocking=self._cuda) for tensor in tensors]  # pinned if non-blocking
        if self._cuda:
            torch.cuda.current_stream(self._device).synchronize()
        return [copy.numpy() for copy in copies]


def load(settings: Settings) -> tuple[CheckpointInfo, Backend]:
    """Load the checkpoint on its device; raises CheckpointError, DeviceError or UnsupportedModel."""
    torch.set_num_threads(settings.torch_threads)
    _check_device(settings.device)
    model, known = read_checkpoint(settings.checkpoint, settings.device)
    return known, choose_backend(model, settings.runtime, settings.device)


def choose_backend(model: Model, runtime: Runtime = "auto", device: torch.device | str = "cpu") -> Backend:
    """Create a backend of `runtime`; `auto` is ONNX Runtime if it supports the model, else torch.

    Raises UnsupportedModel if ONNX Runtime is required and does not support the model.
    """
    if runtime != "torch":
        try:
            return _onnx_backend(model, device)
        except UnsupportedModel:
            if runtime == "onnx":
                raise
    return TorchBackend(model, device)


def _onnx_backend(model: Model, device: torch.device | str) -> OnnxBackend:
    if torch.device(device).type != "cpu":
        raise UnsupportedModel("it is set up for the CPU only")
    return OnnxBackend(translate(model), torch.get_num_threads())


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch raises either
        raise DeviceError(f"The device {device} cannot be used: {str(error).partition('. ')[0].strip('.')}.") from error


def lay_out(model: nn.Module) -> None:
    """Store the matrices of linear layers as (inputs, outputs), and the weights of convolutions channels last.

    BLAS then uses the same kernel for any number of rows above a few, so that results agree bit for bit, and computes
    few rows faster. Convolutions take a tenth to a quarter less time.
    """
    for module in model.modules():  # does nothing on a second call
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.t().contiguous().t()
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
