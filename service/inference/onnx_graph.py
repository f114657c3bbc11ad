"""Layers of `vae.layers` → ONNX, opset 17, with a checkpoint's tensors.

The model is written field by field, as github.com/onnx/onnx/blob/main/onnx/onnx.proto numbers them: few are needed, and
the package onnx, which would write them too, takes tens of MB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from service.inference.protobuf import message
from vae.arrays import Arrays
from vae.layers import Conv2d, ConvTranspose2d, Flatten, Layer, Layers, LeakyReLU, Linear, Unflatten

OPSET, IR_VERSION = 17, 8
FLOAT, INT64 = 1, 7
"""TensorProto.DataType."""
EXTERNAL = 1
"""TensorProto.DataLocation."""
ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_INTS = 1, 2, 7
"""AttributeProto.AttributeType."""


class Graph:
    """A graph with one input `x`, (N, *shape) float32, that is built layer by layer."""

    def __init__(self, shape: tuple[int, ...], arrays: Arrays) -> None:
        """`arrays` are the tensors of the layers."""
        self._shape = shape
        self._arrays = arrays
        self.weights: dict[str, npt.NDArray[np.float32]] = {}
        """Constants that the model lacks, for SessionOptions.add_external_initializers: a session keeps the model."""
        self._nodes: list[bytes] = []
        self._initializers: list[bytes] = []
        self._outputs: list[bytes] = []

    def add_layers(self, part: str, layers: Layers, source: str) -> str:
        """Add layers, whose tensors are named `part.0.weight` and so on; return the name of the last one's result."""
        for index, layer in enumerate(layers):
            source = self.add_layer(f"{part}.{index}", layer, source)
        return source

    def add_layer(self, name: str, layer: Layer, source: str, output: str | None = None) -> str:
        """Add a layer, whose tensors are `name.weight` and `name.bias`; return the name of its result."""
        operator, constants, attributes = self._translate(name, layer)
        inputs = [source]
        for constant in constants:
            inputs.append(f"{name} {len(inputs)}")
            if constant.dtype == np.float32:
                self.weights[inputs[-1]] = np.ascontiguousarray(constant)
            self._initializers.append(_tensor(inputs[-1], constant))
        return self.add_node(operator, inputs, output or name, attributes)

    def add_node(
        self,
        operator: str,
        inputs: list[str],
        output: str,
        attributes: Mapping[str, float | int | list[int]] | None = None,
    ) -> str:
        """Add a node; return the name of its result."""
        written = [_attribute(name, value) for name, value in (attributes or {}).items()]
        self._nodes.append(message((1, inputs), (2, output), (4, operator), (5, written)))
        return output

    def mark_output(self, name: str, shape: tuple[int, ...]) -> None:
        """Make the result `name`, (N, *shape) float32, an output of the graph."""
        self._outputs.append(_value_info(name, shape))

    def serialize(self) -> bytes:
        """Return the model as ModelProto."""
        graph = message(
            (1, self._nodes),
            (2, "network"),
            (5, self._initializers),
            (11, _value_info("x", self._shape)),
            (12, self._outputs),
        )
        return message((1, IR_VERSION), (7, graph), (8, message((2, OPSET))))

    def _translate(self, name: str, layer: Layer) -> tuple[str, list[npt.NDArray[Any]], dict[str, Any]]:
        """Return the operator of `layer`, its constant inputs and its attributes."""
        match layer:
            case Linear():
                return "Gemm", [self._arrays[f"{name}.weight"].T, self._arrays[f"{name}.bias"]], {}
            case Conv2d() | ConvTranspose2d():
                operator = "Conv" if isinstance(layer, Conv2d) else "ConvTranspose"
                window = {
                    "kernel_shape": list(layer.kernel_size),
                    "strides": [layer.stride] * 2,
                    "pads": [layer.padding] * 4,
                }
                return operator, [self._arrays[f"{name}.weight"], self._arrays[f"{name}.bias"]], window
            case LeakyReLU():
                return "LeakyRelu", [], {"alpha": layer.negative_slope}
            case Flatten():
                return "Flatten", [], {"axis": 1}
            case Unflatten():
                return "Reshape", [np.array([0, *layer.shape], np.int64)], {}


def _tensor(name: str, array: npt.NDArray[Any]) -> bytes:
    """TensorProto of int64, or of float32 whose data is elsewhere."""
    if array.dtype == np.int64:
        return message((1, array.shape), (2, INT64), (8, name), (9, array.tobytes()))
    location = message((1, "location"), (2, "memory"))
    return message((1, array.shape), (2, FLOAT), (8, name), (13, location), (14, EXTERNAL))


def _attribute(name: str, value: float | int | list[int]) -> bytes:
    """AttributeProto."""
    if isinstance(value, list):
        return message((1, name), (8, value), (20, ATTRIBUTE_INTS))
    if isinstance(value, int):
        return message((1, name), (3, value), (20, ATTRIBUTE_INT))
    return message((1, name), (2, value), (20, ATTRIBUTE_FLOAT))


def _value_info(name: str, shape: tuple[int, ...]) -> bytes:
    """ValueInfoProto of (N, *shape) float32."""
    sizes = [message((2, "N")), *(message((1, size)) for size in shape)]
    tensor = message((1, FLOAT), (2, message((1, sizes))))
    return message((1, name), (2, message((1, tensor))))
