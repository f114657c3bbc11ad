"""The interface of backends, which compute encoder and decoder of a model, and the one of ONNX Runtime for CPUs."""

from __future__ import annotations

import os
from typing import Any, Protocol

os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # it would write a file to the home directory and send it to Microsoft

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnxruntime

from service.inference.onnx_model import OnnxModel, UnsupportedModel
from vae.config import AutoencoderKLConfig, VAEConfig

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
"""NumPy dtypes of tensors in requests and responses, by the names of torch."""
TOLERANCE = 1e-5
"""Largest absolute and relative difference from the results of torch."""


class Backend(Protocol):
    """Computes a model. Arrays are float32: images (N, C, H, W) in [0, 1], latents (N, …) of the model's shape.

    Returned images may be stored channels last.
    """

    max_concurrent_batches: int
    """Batches to compute at a time, each in its own thread."""

    @property
    def config(self) -> VAEConfig | AutoencoderKLConfig:
        """The configuration of the model."""

    def encode(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and log-variance of q(z|x), (N, …) each."""

    def decode(self, z: FloatArray) -> FloatArray:
        """Return images, (N, C, H, W) in [0, 1]."""

    def reconstruct(self, z: FloatArray, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return images as `decode` does, and −log p(x|z) of `images`, (N,), nats."""

    def decode_raw(self, z: FloatArray, dtype: str) -> tuple[ByteArray, FloatArray]:
        """Decode to the range of diffusers, about [-1, 1], as one of DTYPES.

        Returns the bytes, uint8 (N, …), and the sum of each image, (N,), which is finite if all its values are.
        """

    def begin_thread(self) -> None:
        """Prepare a thread of the service to compute."""


class OnnxBackend:
    """A VAE whose layers have a translation to ONNX, on the CPU. A row has the same result in batches of any size."""

    max_concurrent_batches = 1

    def __init__(self, translation: OnnxModel, threads: int = 1) -> None:
        """Raises UnsupportedModel if the results differ from those of torch."""
        self.config = translation.config
        self._encoder = _session(translation.encoder, threads)
        self._decoder = _session(translation.decoder, threads)
        self._compare(translation)

    def encode(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As Backend."""
        mean, log_variance = self._encoder.run(None, {"x": images.reshape(len(images), -1)})
        return mean, log_variance

    def decode(self, z: FloatArray) -> FloatArray:
        """As Backend."""
        images: FloatArray = self._decoder.run(["image"], {"x": z})[0]
        return images.reshape(-1, *self.config.image_shape)

    def reconstruct(self, z: FloatArray, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As Backend."""
        decoded, logits = self._decoder.run(None, {"x": z})
        return decoded.reshape(images.shape), _reconstruction_loss(logits.reshape(images.shape), images)

    def decode_raw(self, z: FloatArray, dtype: str) -> tuple[ByteArray, FloatArray]:
        """As Backend."""
        images = (self.decode(z) * 2 - 1).reshape(len(z), -1)
        return images.astype(DTYPES[dtype]).view(np.uint8), images.sum(1)

    def begin_thread(self) -> None:
        """As Backend: does nothing."""

    def _compare(self, translation: OnnxModel) -> None:
        probe = translation.probe
        mean, log_variance = self.encode(probe["images"])
        found = {"mean": mean, "log_variance": log_variance, "image": self.decode(probe["z"])}
        for name, array in found.items():
            if not np.allclose(array, probe[name], TOLERANCE, TOLERANCE, equal_nan=True):
                raise UnsupportedModel(f"it differs from torch by more than {TOLERANCE:g}")


def _reconstruction_loss(logits: FloatArray, x: FloatArray) -> FloatArray:
    """As `vae.objective.reconstruction_loss`."""
    terms = np.maximum(logits, 0) - logits * x + np.log1p(np.exp(-np.abs(logits)))
    loss: FloatArray = terms.reshape(len(x), -1).sum(1)
    return loss


def _session(model: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
