"""Translates the kinds of layers of `vae.architectures` from torch to ONNX, opset 17."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from service.inference.onnx_model import FloatArray, OnnxModel, UnsupportedModel
from vae.autoencoder_kl import AutoencoderKL
from vae.model import VAE

OPSET, IR_VERSION = 17, 8


def translate(model: VAE | AutoencoderKL) -> OnnxModel:
    """Translate `model`, which is on the CPU; raises UnsupportedModel where a layer has no translation."""
    if not isinstance(model, VAE):
        raise UnsupportedModel(f"it has no translation of {type(model).__name__}")
    heads = {"mean": model.mean_layer, "log_variance": model.log_variance_layer}
    encoder = _onnx_model(model.encoder, (model.config.pixels,), heads)
    decoder = _onnx_model(model.decoder, model.config.latent_shape, {"image": nn.Sigmoid(), "logits": nn.Identity()})
    return OnnxModel(model.config, encoder, decoder, _probe(model))


def _probe(model: VAE) -> dict[str, FloatArray]:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(3, *model.config.image_shape, generator=random)
    z = torch.randn(3, *model.config.latent_shape, generator=random)
    with torch.inference_mode():
        mean, log_variance = model.encode(images)
        image = model.to_image_(model.decode(z))
    tensors = {"images": images, "z": z, "mean": mean, "log_variance": log_variance, "image": image}
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _onnx_model(body: nn.Module, shape: tuple[int, ...], heads: Mapping[str, nn.Module]) -> bytes:
    """Translate `body`, whose input `x` is (N, *shape) float32, and one output for each of `heads`."""
    graph = _Graph()
    features = graph.add(body, "x")
    outputs = []
    for name, head in heads.items():
        graph.nodes.append(helper.make_node("Identity", [graph.add(head, features)], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "network", [x], outputs, graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    serialized: bytes = model.SerializeToString()
    return serialized


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, layer: nn.Module, source: str) -> str:
        """Add `layer`, whose input is called `source`; returns the name of its output."""
        if isinstance(layer, nn.Identity):
            return source
        if isinstance(layer, nn.Sequential):
            for part in layer:
                source = self.add(part, source)
            return source
        translation = TRANSLATIONS.get(type(layer))
        if translation is None:
            raise UnsupportedModel(f"it has no translation of {type(layer).__name__}")
        kind, constants, attributes = translation(layer)
        output = f"{len(self.nodes)}"
        inputs = [source, *(self._add_constant(constant) for constant in constants)]
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _add_constant(self, constant: Tensor | np.ndarray) -> str:
        array = constant.detach().cpu().numpy() if isinstance(constant, Tensor) else constant
        name = f"constant {len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


Node = tuple[str, list[Any], dict[str, Any]]
"""An ONNX operator, its constant inputs and its attributes."""


def _linear(layer: nn.Linear) -> Node:
    return "Gemm", [layer.weight.t(), layer.bias], {}


def _leaky_relu(layer: nn.LeakyReLU) -> Node:
    return "LeakyRelu", [], {"alpha": layer.negative_slope}


def _flatten(_: nn.Flatten) -> Node:
    return "Flatten", [], {"axis": 1}


def _unflatten(layer: nn.Unflatten) -> Node:
    return "Reshape", [np.array([0, *layer.unflattened_size], np.int64)], {}


def _sigmoid(_: nn.Sigmoid) -> Node:
    return "Sigmoid", [], {}


def _convolution(layer: nn.Conv2d) -> Node:
    return "Conv", [layer.weight, layer.bias], _window(layer)


def _transposed_convolution(layer: nn.ConvTranspose2d) -> Node:
    return "ConvTranspose", [layer.weight, layer.bias], _window(layer)


def _window(layer: Any) -> dict[str, Any]:
    return {"strides": list(layer.stride), "pads": list(layer.padding) * 2, "kernel_shape": list(layer.kernel_size)}


TRANSLATIONS: dict[type[nn.Module], Callable[[Any], Node]] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed_convolution,
    nn.Flatten: _flatten,
    nn.LeakyReLU: _leaky_relu,
    nn.Linear: _linear,
    nn.Sigmoid: _sigmoid,
    nn.Unflatten: _unflatten,
}
