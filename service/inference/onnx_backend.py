"""The ONNX Runtime backend."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it sends a file in the home directory to Microsoft

import numpy as np
import onnxruntime

from service.inference.backend import ByteArray, FloatArray, numpy_dtype
from service.inference.onnx_graph import Graph
from vae.architectures import network
from vae.arrays import Arrays as WeightArrays
from vae.config import VAEConfig
from vae.layers import Flatten


class OnnxBackend:
    """A VAE on the CPU."""

    max_concurrent_batches = 1

    def __init__(self, config: VAEConfig, arrays: WeightArrays, threads: int = 1) -> None:
        """Create the network of `config` with the tensors of its checkpoint."""
        self.config = config
        self._encoder = _create_session(encoder_graph(config, arrays), threads)
        self._decoder = _create_session(decoder_graph(config, arrays), threads)

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

    def pixel_losses(self, z: FloatArray, images: FloatArray) -> FloatArray:
        """As Backend."""
        (logits,) = self._decoder.run(["logits"], {"x": z})
        losses: FloatArray = _pixel_losses(logits.reshape(images.shape), images).sum(1, keepdims=True)
        return losses

    def decode_raw(self, z: FloatArray, dtype: str) -> tuple[ByteArray, FloatArray]:
        """As Backend."""
        images = (self.decode(z) * 2 - 1).reshape(len(z), -1)
        return images.astype(numpy_dtype(dtype)).view(np.uint8), images.sum(1)

    def begin_thread(self) -> None:
        """As Backend: there is nothing to prepare."""


def _reconstruction_loss(logits: FloatArray, x: FloatArray) -> FloatArray:
    """−log p(x|z) of N images, (N,), nats, as `vae.objective.reconstruction_loss`."""
    loss: FloatArray = _pixel_losses(logits, x).reshape(len(x), -1).sum(1)
    return loss


def _pixel_losses(logits: FloatArray, x: FloatArray) -> FloatArray:
    """The terms of `_reconstruction_loss`, (N, C, H, W), as `vae.objective.pixel_losses`."""
    losses: FloatArray = np.maximum(logits, 0) - logits * x + np.log1p(np.exp(-np.abs(logits)))
    return losses


def encoder_graph(config: VAEConfig, arrays: WeightArrays) -> Graph:
    """Return the graph (N, C·H·W) → `mean` and `log_variance`, (N, *latent_shape)."""
    layers = network(config)
    graph = Graph((config.pixels,), arrays)
    features = graph.add_layers("encoder", layers.encoder, "x")
    for output in ("mean", "log_variance"):
        graph.add_layer(f"{output}_layer", layers.head, features, output)
        graph.mark_output(output, config.latent_shape)
    return graph


def decoder_graph(config: VAEConfig, arrays: WeightArrays) -> Graph:
    """Return the graph (N, *latent_shape) → `image` and `logits`, (N, C·H·W)."""
    graph = Graph(config.latent_shape, arrays)
    decoded = graph.add_layers("decoder", network(config).decoder, "x")
    logits = graph.add_layer("flatten", Flatten(), decoded, "logits")
    for output in (graph.add_node("Sigmoid", [logits], "image"), logits):
        graph.mark_output(output, (config.pixels,))
    return graph


def _create_session(graph: Graph, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    weights = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in graph.weights.values()]
    options.add_external_initializers(list(graph.weights), weights)  # copies them
    return onnxruntime.InferenceSession(graph.serialize(), options, providers=["CPUExecutionProvider"])
