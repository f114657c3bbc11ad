"""The OpenAPI description of the Open Inference Protocol's routes."""

from __future__ import annotations

from typing import Any

from service.api.bodies import JSON
from service.api.open_inference import BINARY, JSON_LENGTH

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_READY = {"name": "mnist", "ready": True}
_TENSOR = {"name": "z", "datatype": "FP32", "shape": [-1, 3]}
_CARD = {"name": "mnist", "versions": ["1"], "platform": "pytorch_vae", "inputs": [_TENSOR], "outputs": [_TENSOR]}
_REQUEST = {"inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [0.1, -0.2, 0.3]}]}
_RESPONSE = {
    "model_name": "mnist",
    "model_version": "1",
    "outputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [0.0, 0.02, 0.97, 0.4]}],
}
_EXAMPLES: dict[str, Any] = {
    "/v2": {"name": "VAE service", "version": "0.1.0", "extensions": ["binary_tensor_data", "model_repository"]},
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"ready": True},
    "ready": _READY,
    "infer": _RESPONSE,
    "/v2/repository/index": [{"name": "mnist", "version": "2", "state": "READY", "reason": ""}],
}
_SUMMARIES = {
    "/v2": "Name, version and extensions of the server",
    "/v2/repository/index": "All models, or those that are ready → their names, versions and states",
    "/v2/health/live": "200 as long as the process can respond",
    "/v2/health/ready": "200 while the service takes requests, 503 while it starts or drains",
    "ready": "200 where the model is served under this name",
    "infer": "Tensor image → its mean, log_variance, reconstruction and scores; tensor z → image",
    "model": "Names, datatypes and shapes of the model's inputs and outputs",
}
_STATUSES = {
    400: "The body is not JSON, or the length of its JSON is wrong.",
    401: "The API key is missing or wrong.",
    404: "There is no such model or version.",
    413: "The body or the batch exceeds the limit.",
    422: "A tensor has the wrong name, datatype, shape or range, or a parameter is unknown.",
    429: "This API key has used its share of the queue.",
    503: "The queue or the memory is full, or the service is starting or stopping; try again.",
    504: "The request took longer than the deadline.",
}


def describe(path: str) -> dict[str, Any]:
    """Return the arguments of an APIRoute that document the route at `path`."""
    kind = path.rpartition("/")[2]
    example = _EXAMPLES.get(path) or _EXAMPLES.get(kind, _CARD)
    summary = _SUMMARIES.get(path) or _SUMMARIES.get(kind, _SUMMARIES["model"])
    route = {"tags": ["open inference protocol"], "summary": summary}
    done: dict[str, Any] = {JSON: {"schema": {"type": "array" if kind == "index" else "object"}, "example": example}}
    responses: dict[int | str, dict[str, Any]] = {200: {"description": "Done.", "content": done}}
    if "/health/" in path:
        if kind == "ready":
            not_ready = {JSON: {"schema": {"type": "object"}, "example": {"ready": False}}}
            responses[503] = {"description": "Starting or draining.", "content": not_ready}
        return {**route, "responses": responses}
    extra: dict[str, Any] = {"security": [{}, {"bearer": []}, {"key": []}]}
    possible = set(_STATUSES) - ({400, 413} if kind not in ("infer", "index") else set())
    possible -= {404} if "{name}" not in path else set()
    for status in sorted(possible):
        content = {JSON: {"schema": _ERROR, "example": {"error": _STATUSES[status]}}}
        responses[status] = {"description": _STATUSES[status], "content": content}
    if kind == "index":
        content = {JSON: {"schema": {"type": "object"}, "example": {"ready": True}}}
        extra["requestBody"] = {"description": "Whether to leave out what is not ready.", "content": content}
    if kind == "infer":
        binary = {"schema": {"type": "string", "format": "binary"}}
        done[BINARY] = binary
        request = {JSON: {"schema": {"type": "object"}, "example": _REQUEST}, BINARY: binary}
        description = (
            f"JSON, or JSON followed by the values of a tensor, with the JSON's length in the header {JSON_LENGTH}"
        )
        extra["requestBody"] = {"required": True, "description": description, "content": request}
    return {**route, "responses": responses, "openapi_extra": extra}
