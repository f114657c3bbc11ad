"""A model's encoder and decoder on torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from service.checkpoints import read_checkpoint
from service.network import FloatArray, Network, OnnxNetwork
from service.onnx_graph import translate
from service.settings import Runtime, Settings
from service.translation import Known, Untranslatable
from vae.autoencoder_kl import AutoencoderKL
from vae.model import VAE

Model = VAE | AutoencoderKL


class DeviceError(Exception):
    """Why torch cannot use a device, in a sentence."""


class TorchNetwork:
    """The model as it is, on any device."""

    def __init__(self, model: Model, device: torch.device | str = "cpu") -> None:
        self.config = model.config
        self.model = model
        self._device = torch.device(device)
        self._threads = torch.get_num_threads()
        lay_out(model)

    def encode(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As Network."""
        with torch.inference_mode():
            mean, log_variance = self.model.encode(self._tensor(images))
            return mean.cpu().numpy(), log_variance.cpu().numpy()  # outside of the mode it takes ten times as long

    def decode(self, z: FloatArray) -> FloatArray:
        """As Network."""
        with torch.inference_mode():
            images: FloatArray = self.model.image(self.model.decode(self._tensor(z))).cpu().numpy()
            return images

    def reconstruct(self, z: FloatArray, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As Network."""
        with torch.inference_mode():
            decoded = self.model.decode(self._tensor(z))
            loss = self.model.reconstruction_loss(decoded, self._tensor(images))
            return self.model.image(decoded).cpu().numpy(), loss.cpu().numpy()

    def signed(self, z: FloatArray) -> FloatArray:
        """As Network."""
        with torch.inference_mode():
            images: FloatArray = self.model.signed(self._tensor(z)).cpu().numpy()
            return images

    def begin_thread(self) -> None:
        """As Network: BLAS called from a thread that torch did not make uses all cores until this is called there."""
        torch.set_num_threads(self._threads)

    def _tensor(self, array: FloatArray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def load(settings: Settings) -> tuple[Known, Network]:
    """The checkpoint on its device; raises CheckpointError, DeviceError and Untranslatable."""
    torch.set_num_threads(settings.torch_threads)
    _check_device(settings.device)
    model, known = read_checkpoint(settings.checkpoint, settings.device)
    return known, choose_network(model, settings.runtime, settings.device)


def choose_network(model: Model, runtime: Runtime = "auto", device: torch.device | str = "cpu") -> Network:
    """`runtime`; by default ONNX Runtime where it can compute the model, and torch elsewhere.

    Raises Untranslatable where it was asked for and cannot.
    """
    if runtime != "torch":
        try:
            return _onnx_network(model, device)
        except Untranslatable:
            if runtime == "onnx":
                raise
    return TorchNetwork(model, device)


def _onnx_network(model: Model, device: torch.device | str) -> OnnxNetwork:
    if torch.device(device).type != "cpu":
        raise Untranslatable("it is set up for the CPU alone")
    return OnnxNetwork(translate(model), torch.get_num_threads())


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch says it the one way or the other
        raise DeviceError(f"The device {device} cannot be used: {str(error).partition('. ')[0].strip('.')}.") from error


def lay_out(model: nn.Module) -> None:
    """Lay the matrices of `model` out in memory as (inputs, outputs), their shape being the other way round.

    BLAS then computes any number of rows, from a few upwards, by the same kernel, bit for bit, and a few rows faster.
    Convolutions get their channels last, and give theirs so: they take a tenth to a quarter less time.
    """
    for module in model.modules():  # copies nothing the second time
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.t().contiguous().t()
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
