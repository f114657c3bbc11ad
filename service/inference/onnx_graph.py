"""Layers of `vae.layers` → ONNX, opset 18, with a checkpoint's tensors.

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
from vae.layers import (
    Conv2d,
    ConvTranspose2d,
    Flatten,
    GroupNorm,
    Layer,
    Layers,
    LeakyReLU,
    Linear,
    Residual,
    SiLU,
    Unflatten,
    Upsample,
)

OPSET, IR_VERSION = 18, 8
FLOAT, INT64 = 1, 7
"""TensorProto.DataType."""
OMITTED = ""
"""Name of an optional input that a node does not have."""
EXTERNAL = 1
"""TensorProto.DataLocation."""
ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_STRING, ATTRIBUTE_INTS = 1, 2, 3, 7
"""AttributeProto.AttributeType."""
EPSILON = 1e-5
"""What GroupNorm adds to the variance, that of torch."""

Attribute = float | int | str | list[int]


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

    def add_layer(self, name: str, layer: Layer, source: str, output: str | None = None) -> str:  # noqa: PLR0911
        """Add a layer, whose tensors are `name.weight` and `name.bias`; return the name of its result."""
        output = output or name
        match layer:
            case Linear():
                weights = [self._weight(f"{name}.weight", transposed=True), self._weight(f"{name}.bias")]
                return self.add_node("Gemm", [source, *weights], output)
            case Conv2d() | ConvTranspose2d():
                operator = "Conv" if isinstance(layer, Conv2d) else "ConvTranspose"
                window: dict[str, Attribute] = {
                    "kernel_shape": list(layer.kernel_size),
                    "strides": [layer.stride] * 2,
                    "pads": [layer.padding] * 4,
                }
                weights = [self._weight(f"{name}.weight"), self._weight(f"{name}.bias")]
                return self.add_node(operator, [source, *weights], output, window)
            case GroupNorm():
                return self._add_group_norm(name, layer, source, output)
            case LeakyReLU():
                return self.add_node("LeakyRelu", [source], output, {"alpha": layer.negative_slope})
            case SiLU():
                return self.add_node("Mul", [source, self.add_node("Sigmoid", [source], f"{name} sigmoid")], output)
            case Upsample():
                size = self._constant(f"{name} size", np.array(layer.size, np.int64))
                nearest: dict[str, Attribute] = {
                    "axes": [2, 3],
                    "coordinate_transformation_mode": "asymmetric",
                    "mode": "nearest",
                    "nearest_mode": "floor",
                }
                return self.add_node("Resize", [source, OMITTED, OMITTED, size], output, nearest)
            case Residual():
                return self.add_node("Add", [source, self.add_layers(name, layer.layers, source)], output)
            case Flatten():
                return self.add_node("Flatten", [source], output, {"axis": 1})
            case Unflatten():
                shape = self._constant(f"{name} shape", np.array([0, *layer.shape], np.int64))
                return self.add_node("Reshape", [source, shape], output)

    def _add_group_norm(self, name: str, layer: GroupNorm, source: str, output: str) -> str:
        """Add a normalization of groups as one of instances, whose channels are the groups; opset 18 has no other."""
        ones, zeros = np.ones(layer.groups, np.float32), np.zeros(layer.groups, np.float32)
        units = [self._constant(f"{name} ones", ones), self._constant(f"{name} zeros", zeros)]
        grouped_shape = self._constant(f"{name} grouped shape", np.array([0, layer.groups, -1], np.int64))
        grouped = self.add_node("Reshape", [source, grouped_shape], f"{name} grouped")
        unscaled = self.add_node("InstanceNormalization", [grouped, *units], f"{name} unscaled", {"epsilon": EPSILON})
        shape = self.add_node("Shape", [source], f"{name} shape")
        restored = self.add_node("Reshape", [unscaled, shape], f"{name} restored")
        weight, bias = (self._arrays[f"{name}.{tensor}"].reshape(-1, 1, 1) for tensor in ("weight", "bias"))
        scaled = self.add_node("Mul", [restored, self._constant(f"{name}.weight", weight)], f"{name} scaled")
        return self.add_node("Add", [scaled, self._constant(f"{name}.bias", bias)], output)

    def add_node(
        self,
        operator: str,
        inputs: list[str],
        output: str,
        attributes: Mapping[str, Attribute] | None = None,
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

    def _weight(self, name: str, *, transposed: bool = False) -> str:
        """Add the tensor `name` as a constant; return its name."""
        array = self._arrays[name]
        return self._constant(name, array.T if transposed else array)

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add a constant, int64 or float32; return its name."""
        if array.dtype == np.float32:
            self.weights[name] = np.ascontiguousarray(array)
        self._initializers.append(_tensor(name, array))
        return name


def _tensor(name: str, array: npt.NDArray[Any]) -> bytes:
    """TensorProto of int64, or of float32 whose data is elsewhere."""
    if array.dtype == np.int64:
        return message((1, array.shape), (2, INT64), (8, name), (9, array.tobytes()))
    location = message((1, "location"), (2, "memory"))
    return message((1, array.shape), (2, FLOAT), (8, name), (13, location), (14, EXTERNAL))


def _attribute(name: str, value: Attribute) -> bytes:
    """AttributeProto."""
    if isinstance(value, str):
        return message((1, name), (4, value), (20, ATTRIBUTE_STRING))
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
