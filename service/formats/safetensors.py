"""Hugging Face's safetensors format: several named arrays."""

from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from service.errors import TooLarge, UnreadableBody
from service.formats.arrays import Array, Format, choose, wrong

MEDIA_TYPE = "application/x-safetensors"
"""No media type is registered; most tools send this one.
https://github.com/safetensors/safetensors/issues/743"""
HEADER_BYTES = 2**14
"""Largest JSON header, because each array that it names becomes a Python object."""
DTYPES = {"U8": "u1", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}


def read_safetensors(body: bytes, name: str) -> Array:
    """Read the array `name`, or the only array; bfloat16 as float32."""
    if HEADER_BYTES < int.from_bytes(body[:8], "little") <= len(body):
        raise TooLarge(f"The header of the safetensors file is larger than the {HEADER_BYTES} bytes that are taken.")
    try:
        tensors = dict(deserialize(body))
    except SafetensorError as error:
        raise UnreadableBody(f"The body is not a whole safetensors file: {error}.") from error
    tensor = tensors[choose(list(tensors), name)]
    if tensor["dtype"] not in DTYPES:
        raise wrong(f"The array's dtype is {tensor['dtype']}; one of {', '.join(DTYPES)} is expected.")
    values = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]])
    if tensor["dtype"] == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    try:
        return values.reshape(tensor["shape"])
    except ValueError as error:  # too many dimensions, or too long ones beside one of 0
        raise UnreadableBody(
            "The body is not a safetensors file: no array has the shape that its header declares."
        ) from error


def write_safetensors(arrays: Mapping[str, Array], single: bool) -> bytes:
    """Write `arrays` as a safetensors file."""
    rows = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save({name: array.reshape(array.shape[1:]) if single else array for name, array in rows.items()})


FORMAT = Format(MEDIA_TYPE, read_safetensors, write_safetensors, copies=6)
