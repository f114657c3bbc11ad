"""A model's encoder and decoder, arrays in, arrays out: on torch, or on ONNX Runtime, which is faster on a CPU."""

from __future__ import annotations

import os
from typing import Any, Literal, Protocol

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would keep a file at home and send it to Microsoft

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn

from service.onnx_graph import Untranslatable, translate
from vae.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from vae.config import VAEConfig
from vae.model import VAE
from vae.objective import reconstruction_loss

FloatArray = npt.NDArray[np.float32]
Model = VAE | AutoencoderKL
Runtime = Literal["torch", "onnx"]

TOLERANCE = 1e-5
"""Largest difference from torch, per value: absolute, and relative to the value."""


class Network(Protocol):
    """Float32 throughout: images (N, C, H, W) in [0, 1], latents (N, …) of the model's shape.

    The channels of the images that are given may lie last in memory.
    """

    @property
    def config(self) -> VAEConfig | AutoencoderKLConfig:
        """The model's."""

    def encode(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and log-variance of q(z|x), (N, …) each."""

    def decode(self, z: FloatArray) -> FloatArray:
        """Images, (N, C, H, W) in [0, 1]."""

    def reconstruct(self, z: FloatArray, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As `decode`, and −log p(x|z) of `images`, (N,), nats."""

    def signed(self, z: FloatArray) -> FloatArray:
        """Images as diffusers has them, (N, C, H, W) about in [-1, 1]."""


class TorchNetwork:
    """The model as it is, on any device."""

    def __init__(self, model: Model, device: torch.device | str = "cpu") -> None:
        self.config = model.config
        self.model = model
        self._device = torch.device(device)
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

    def _tensor(self, array: FloatArray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


class OnnxNetwork:
    """A VAE whose layers ONNX Runtime knows, on the CPU. Its kernels compute a row alike in batches of any size."""

    def __init__(self, model: VAE) -> None:
        """Raises Untranslatable where there is a layer that it does not know, or where it computes something else."""
        self.config = model.config
        heads = {"mean": model.mean_layer, "log_variance": model.log_variance_layer}
        self._encoder = _session(translate(model.encoder, (model.config.pixels,), heads))
        images = {"image": nn.Sigmoid(), "logits": nn.Identity()}
        self._decoder = _session(translate(model.decoder, model.config.latent_shape, images))
        _compare(self, model)

    def encode(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As Network."""
        mean, log_variance = self._encoder.run(None, {"x": images.reshape(len(images), -1)})
        return mean, log_variance

    def decode(self, z: FloatArray) -> FloatArray:
        """As Network."""
        images: FloatArray = self._decoder.run(["image"], {"x": z})[0]
        return images.reshape(-1, *self.config.image_shape)

    def reconstruct(self, z: FloatArray, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As Network."""
        decoded, logits = self._decoder.run(None, {"x": z})
        loss = reconstruction_loss(torch.from_numpy(logits.reshape(images.shape)), torch.from_numpy(images))
        return decoded.reshape(images.shape), loss.numpy()

    def signed(self, z: FloatArray) -> FloatArray:
        """As Network."""
        return self.decode(z) * 2 - 1


def choose_network(model: Model, runtime: Runtime | None, device: torch.device | str) -> Network:
    """`runtime`; by default ONNX Runtime where it can compute the model, and torch elsewhere.

    Raises Untranslatable where it was asked for and cannot.
    """
    if runtime != "torch":
        try:
            return OnnxNetwork(_translatable(model, device))
        except Untranslatable:
            if runtime == "onnx":
                raise
    return TorchNetwork(model, device)


def _translatable(model: Model, device: torch.device | str) -> VAE:
    if torch.device(device).type != "cpu":
        raise Untranslatable("it is set up for the CPU alone")
    if not isinstance(model, VAE):
        raise Untranslatable(f"it has no translation of {type(model).__name__}")
    return model


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


def _session(graph: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it would keep megabytes, and makes nothing faster here
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _compare(network: OnnxNetwork, model: VAE) -> None:
    random = np.random.default_rng(0)
    images = random.random((3, *network.config.image_shape), np.float32)
    z = random.standard_normal((3, *network.config.latent_shape), np.float32)
    found = (*network.encode(images), network.decode(z))
    with torch.inference_mode():
        wanted = (*model.encode(torch.from_numpy(images)), model.image(model.decode(torch.from_numpy(z))))
    for array, tensor in zip(found, wanted, strict=True):
        if not np.allclose(array, tensor.numpy(), TOLERANCE, TOLERANCE, equal_nan=True):
            raise Untranslatable(f"it differs from torch by more than {TOLERANCE:g}")
