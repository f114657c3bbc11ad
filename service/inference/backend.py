"""What computes a model's encoder and decoder, arrays in, arrays out; on a CPU ONNX Runtime, which is faster there."""

from __future__ import annotations

import os
from typing import Any, Protocol

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would keep a file at home and send it to Microsoft

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnxruntime

from service.inference.onnx_model import OnnxModel, UnsupportedModel
from vae.config import AutoencoderKLConfig, VAEConfig

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
"""Of tensors that callers send and are given, by torch's names."""
TOLERANCE = 1e-5
"""Largest difference from torch, per value: absolute, and relative to the value."""


class Backend(Protocol):
    """Float32 throughout: images (N, C, H, W) in [0, 1], latents (N, …) of the model's shape.

    The channels of the images that are given may lie last in memory.
    """

    max_concurrent_batches: int
    """Batches that are best computed at a time, in as many threads."""

    @property
    def config(self) -> VAEConfig | AutoencoderKLConfig:
        """The model's."""

    def encode(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and log-variance of q(z|x), (N, …) each."""

    def decode(self, z: FloatArray) -> FloatArray:
        """Images, (N, C, H, W) in [0, 1]."""

    def reconstruct(self, z: FloatArray, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As `decode`, and −log p(x|z) of `images`, (N,), nats."""

    def decode_raw(self, z: FloatArray, dtype: str) -> tuple[ByteArray, FloatArray]:
        """Images as diffusers has them, (N, C, H, W) about in [-1, 1], as one of DTYPES: their bytes, (N, …).

        And their sums, (N,), which are finite where all of their numbers are.
        """

    def begin_thread(self) -> None:
        """Called in a thread of the service's own before it computes there."""


class OnnxBackend:
    """A VAE whose layers ONNX Runtime knows, on the CPU. Its kernels compute a row alike in batches of any size."""

    max_concurrent_batches = 1

    def __init__(self, translation: OnnxModel, threads: int = 1) -> None:
        """Raises UnsupportedModel where it computes something else than torch."""
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
        """As Backend; there is nothing to do."""

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
