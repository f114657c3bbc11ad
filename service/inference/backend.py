"""Backends, which compute a model's encoder and decoder; on a CPU ONNX Runtime, which is faster there than torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it sends a file in the home directory to Microsoft

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnxruntime

from service.inference.onnx_model import OnnxModel, UnsupportedModel
from vae.config import AutoencoderKLConfig, VAEConfig

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
Arrays = tuple[npt.NDArray[Any], ...]
"""Arrays of one length N, the rows of a batch."""

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
"""dtypes of the tensors in requests and responses, by torch's names."""
TOLERANCE = 1e-5
"""Largest difference of ONNX Runtime's values from torch's: absolute, and relative to the value. Rounding is a tenth
of it."""


class Backend(Protocol):
    """A model's computation. Arrays are float32: images (N, C, H, W) in [0, 1], latents (N, …) of the model's shape.

    Returned images may have their channels last in memory.
    """

    max_concurrent_batches: int
    """Batches that are best computed at the same time, each in a thread."""

    @property
    def config(self) -> VAEConfig | AutoencoderKLConfig:
        """The model's configuration."""

    def find_row_multiple(self, limit: int) -> int:
        """Find how many rows, at most `limit`, the size of a batch should be a multiple of.

        In such batches each row's results are the same, bit for bit, whatever and however many the other rows are.
        """

    def encode(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and log-variance of q(z|x), (N, …) each."""

    def decode(self, z: FloatArray) -> FloatArray:
        """Images, (N, C, H, W) in [0, 1]."""

    def reconstruct(self, z: FloatArray, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The images of `decode`, and −log p(x|z) of `images`, (N,), nats."""

    def decode_raw(self, z: FloatArray, dtype: str) -> tuple[ByteArray, FloatArray]:
        """Images as diffusers has them, (N, C, H, W) about in [-1, 1], as one of DTYPES.

        Returns their bytes, (N, …), and the sum of each image, (N,), which is finite where all of its values are.
        """

    def begin_thread(self) -> None:
        """Prepare a thread of the engine; called there before its first batch."""


class OnnxBackend:
    """A VAE whose layers ONNX Runtime has, on the CPU."""

    max_concurrent_batches = 1

    def __init__(self, model: OnnxModel, threads: int = 1) -> None:
        """Load `model`; raises UnsupportedModel where its results are not torch's."""
        self.config = model.config
        self._encoder = _create_session(model.encoder, threads)
        self._decoder = _create_session(model.decoder, threads)
        self._compare(model.probe)

    def find_row_multiple(self, limit: int) -> int:
        """As Backend: 1, as ONNX Runtime's kernels for x86-64 add the terms of each row in the same order."""
        return 1

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
        """As Backend: there is nothing to prepare."""

    def _compare(self, probe: Mapping[str, FloatArray]) -> None:
        mean, log_variance = self.encode(probe["images"])
        found = {"mean": mean, "log_variance": log_variance, "image": self.decode(probe["z"])}
        for name, array in found.items():
            if not np.allclose(array, probe[name], TOLERANCE, TOLERANCE, equal_nan=True):
                raise UnsupportedModel(f"it differs from torch by more than {TOLERANCE:g}")


def _reconstruction_loss(logits: FloatArray, x: FloatArray) -> FloatArray:
    """−log p(x|z) of N images, (N,), nats, as `vae.objective.reconstruction_loss`."""
    terms = np.maximum(logits, 0) - logits * x + np.log1p(np.exp(-np.abs(logits)))
    loss: FloatArray = terms.reshape(len(x), -1).sum(1)
    return loss


def _create_session(model: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
