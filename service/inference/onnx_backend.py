"""The ONNX Runtime backend."""

from __future__ import annotations

import os
from math import prod
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it sends a file in the home directory to Microsoft

import numpy as np
import onnxruntime

from service.inference.backend import ByteArray, FloatArray, numpy_dtype
from service.inference.compute_memory import ComputeMemory
from service.inference.likelihoods import pixel_losses, to_image
from service.inference.onnx_graph import Graph
from vae.architectures import network
from vae.arrays import Arrays as WeightArrays
from vae.config import VAEConfig
from vae.layers import Flatten


class OnnxBackend:
    """A VAE on the CPU."""

    max_concurrent_batches = 1
    memory: ComputeMemory | None = None

    def __init__(self, config: VAEConfig, arrays: WeightArrays, threads: int = 1) -> None:
        """Create the network of `config` with the tensors of its checkpoint."""
        self.config = config
        self._log_scale = arrays.get("likelihood.log_scale")
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
        if self.config.likelihood != "bernoulli":
            return to_image(self.config, self._output(z))
        images: FloatArray = self._decoder.run(["image"], {"x": z})[0]
        return images.reshape(-1, *self.config.image_shape)

    def reconstruct(self, z: FloatArray, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As Backend."""
        if self.config.likelihood == "bernoulli":
            decoded, logits = (result.reshape(images.shape) for result in self._decoder.run(None, {"x": z}))
            losses = pixel_losses(self.config, logits, images)
        else:
            output = self._output(z)
            decoded = to_image(self.config, output)
            losses = pixel_losses(self.config, output, images, self._log_scale)
        return decoded, losses.reshape(len(images), -1).sum(1)

    def pixel_losses(self, z: FloatArray, images: FloatArray) -> FloatArray:
        """As Backend."""
        losses = pixel_losses(self.config, self._output(z), images, self._log_scale)
        summed: FloatArray = losses.sum(1, keepdims=True)
        return summed

    def decode_raw(self, z: FloatArray, dtype: str) -> tuple[ByteArray, FloatArray]:
        """As Backend."""
        images = (self.decode(z) * 2 - 1).reshape(len(z), -1)
        return images.astype(numpy_dtype(dtype)).view(np.uint8), images.sum(1)

    def begin_thread(self) -> None:
        """As Backend: there is nothing to prepare."""

    def _output(self, z: FloatArray) -> FloatArray:
        """The decoder's output, as `vae.VAE.decode`."""
        output: FloatArray = self._decoder.run(["output"], {"x": z})[0]
        return output.reshape(-1, *self.config.output_shape)


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
    """Return the graph (N, *latent_shape) → `output`, (N, C·H·W or 2·C·H·W); before it `image` for a Bernoulli one.

    The images of other likelihoods are computed by `to_image` in NumPy.
    """
    graph = Graph(config.latent_shape, arrays)
    decoded = graph.add_layers("decoder", network(config).decoder, "x")
    output = graph.add_layer("flatten", Flatten(), decoded, "output")
    if config.likelihood == "bernoulli":
        graph.mark_output(graph.add_node("Sigmoid", [output], "image"), (config.pixels,))
    graph.mark_output(output, (prod(config.output_shape),))
    return graph


def _create_session(graph: Graph, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    weights = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in graph.weights.values()]
    options.add_external_initializers(list(graph.weights), weights)  # copies them
    return onnxruntime.InferenceSession(graph.serialize(), options, providers=["CPUExecutionProvider"])
