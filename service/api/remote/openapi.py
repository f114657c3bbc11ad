"""The bodies, responses and header fields of /remote/decode and /remote/encode in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pictures.opening import FORMATS
from service.api.bodies import JSON
from service.api.remote.bodies import BASE64, TENSOR

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_EXAMPLE = {"inputs": "AAAAPwAAAAAAAIC/", "parameters": {"shape": [1, 3], "dtype": "float32"}}
_DOCUMENT = {
    "schema": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "inputs": _BASE64,
            "parameters": {
                "type": "object",
                "description": "Parameters, as in the query; `do_scaling` is then true by default.",
            },
        },
    },
    "example": _EXAMPLE,
}
BASE64_TENSOR: dict[str, Any] = {
    "schema": {
        "type": "object",
        "required": ["inputs", "parameters"],
        "properties": {
            "inputs": _BASE64,
            "parameters": {
                "type": "object",
                "required": ["shape", "dtype"],
                "properties": {
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "dtype": {"type": "string"},
                },
            },
        },
    },
    "example": _EXAMPLE,
}
"""A tensor in a response."""

BODIES: dict[str, dict[str, Any]] = {
    "/remote/decode": {
        "description": "The bytes of a tensor; or these as base64 in JSON.",
        "required": True,
        "content": {TENSOR: _BYTES, BASE64: _DOCUMENT, JSON: _DOCUMENT},
    },
    "/remote/encode": {
        "description": "The bytes of a tensor if `shape` is given, otherwise a picture; or these as base64 in JSON.",
        "required": True,
        "content": {**dict.fromkeys((TENSOR, *FORMATS), _BYTES), BASE64: _DOCUMENT, JSON: _DOCUMENT},
    },
}
HEADERS = {
    "shape": {"description": "Shape of a tensor, as a JSON list.", "schema": {"type": "string"}},
    "dtype": {"description": "Data type of a tensor.", "schema": {"type": "string"}},
}
