"""Tensors: the bytes of a request → arrays, and arrays → responses."""

from __future__ import annotations

from binascii import b2a_base64
from math import prod
from typing import Any

import numpy as np
import orjson

from service.api.remote.bodies import BASE64, BASE64_BYTE_S, TENSOR
from service.api.remote.options import TensorOptions
from service.api.request import Request
from service.api.responses import BytesResponse, FloatArray
from service.errors import InvalidInput, Problem, UnreadableBody
from service.formats.arrays import Array
from service.inference.backend import numpy_dtype
from service.memory_budget import Reserve

TENSOR_BYTES = 12
"""Bytes per number that checking and scaling a tensor allocate."""
BASE64_BYTES = 11
"""Bytes per number that writing base64 allocates: text in pieces, and joined."""
PIECE = 3 * 2**16
"""Bytes that are written as base64 in one call, which takes milliseconds; a multiple of 3."""


def read_tensor(body: bytes, options: TensorOptions, reserve: Reserve) -> FloatArray:
    """Read little-endian numbers of `dtype` and `shape` as float32."""
    dtype, size = numpy_dtype(options.dtype), prod(options.shape)
    if not options.shape:
        raise InvalidInput(Problem("query", "/shape", "shape is missing; send the shape of the tensor in the body."))
    if len(body) != size * dtype.itemsize:
        tensor = f"a {options.dtype} tensor of the shape {list(options.shape)}"
        raise UnreadableBody(f"The body has {len(body)} bytes; {tensor} has {size * dtype.itemsize}.")
    reserve(TENSOR_BYTES * size)
    return np.frombuffer(body, dtype).reshape(options.shape).astype(np.float32)


def tensor_types(options: TensorOptions) -> tuple[str, str]:
    """Return the media types of tensors, the preferred one first."""
    return (TENSOR, BASE64) if options.output_tensor_type == "binary" else (BASE64, TENSOR)


def tensor_memory(media_type: str, size: int) -> int:
    """Return the bytes that `bytes_response` allocates for a tensor of `size` numbers."""
    return size * BASE64_BYTES if media_type == BASE64 else 0


def little_endian(array: Array, dtype: np.dtype[Any], channels_axis: int | None = None) -> Array:
    """Return an array as contiguous `dtype`; grey images with their channel on `channels_axis` become RGB."""
    if channels_axis is not None and array.shape[channels_axis] == 1:
        array = array.repeat(3, channels_axis)
    return np.ascontiguousarray(array.astype(dtype, copy=False))


async def array_response(request: Request, media_type: str, array: Array) -> BytesResponse:
    """Return an array of `little_endian` as a response."""
    data = array.reshape(-1).view(np.uint8).data
    return await bytes_response(request, media_type, data, array.shape, array.dtype.name)


async def bytes_response(
    request: Request, media_type: str, data: memoryview, shape: tuple[int, ...], dtype: str
) -> BytesResponse:
    """Return the bytes of a tensor as they are, or in JSON as base64. Header fields have its shape and data type."""
    headers = {"shape": str(list(shape)), "dtype": dtype}
    if media_type == TENSOR:
        return BytesResponse(data, TENSOR, headers)
    body = await request.run(len(data) * BASE64_BYTE_S, _write_document, data, shape, dtype)
    return BytesResponse(body, BASE64, headers)


def _write_document(data: memoryview, shape: tuple[int, ...], dtype: str) -> bytes:
    pieces = (b2a_base64(data[start : start + PIECE], newline=False) for start in range(0, len(data), PIECE))
    parameters = orjson.dumps({"shape": shape, "dtype": dtype})
    return b"".join((b'{"inputs":"', *pieces, b'","parameters":', parameters, b"}"))
