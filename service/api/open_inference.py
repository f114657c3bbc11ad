"""The Open Inference Protocol, version 2 (KServe, Triton, Seldon), with the binary tensor extension.

One model, under its name: it takes `image`, (N, C, H, W), UINT8 (0 to 255) or FP32 (0 to 1), or `z`, (N, …) FP32, and
gives `mean` and `log_variance` of an image and `image`, FP32 (N, C, H, W) in [0, 1]: the reconstruction of an image,
from its mean, or the image of a latent.
https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from reprlib import repr as brief
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from service.api.bodies import CONVERTED_BYTES, JSON, invalid, without_subnormals
from service.api.context import ModelContext, count_distances
from service.api.offloading import JSON_BYTE_S, JSON_VALUE_S, LONG_JSON_BYTE_S, VALUE_S
from service.api.operation import AccessControl, Operation
from service.api.request import Request
from service.api.responses import Answer, FloatArray, reserve, write_values
from service.api.schemas import LATENT_BOUND, NoOptions
from service.errors import InvalidInput, NotFound, Problem, ServiceError, UnreadableBody
from service.formats.json_reader import VALUES, read_json
from service.memory_budget import Reserve

BINARY = "application/octet-stream"
JSON_LENGTH = "Inference-Header-Content-Length"
LENGTH = re.compile(r"\d{1,18}", re.ASCII)
DATATYPES: dict[str, type[np.generic]] = {"UINT8": np.uint8, "FP32": np.float32}
GIVEN_FOR = {"image": ("mean", "log_variance", "image"), "z": ("image",)}
RANGES = {
    "image": (0.0, 1.0, "numbers in [0, 1], or UINT8,"),
    "z": (-LATENT_BOUND, LATENT_BOUND, f"finite numbers within ±{LATENT_BOUND:g}"),
}
"""Of FP32: lowest, highest, in words."""
VERSION = "1"

Array = npt.NDArray[Any]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Parameters(_Part):
    """Of a tensor or of a request, those that are known here."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = None
    binary_data: bool | None = None
    binary_data_output: bool = False


class Tensor(_Part):
    """One that comes."""

    name: Literal["image", "z"]
    shape: list[Annotated[int, Field(ge=1)]] = Field(max_length=4)
    datatype: Literal["UINT8", "FP32"]
    parameters: Parameters = Parameters()
    data: Any = None


class RequestedOutput(_Part):
    """An output that is asked for."""

    name: Literal["mean", "log_variance", "image"]
    parameters: Parameters = Parameters()


class Inference(_Part):
    """A request."""

    id: str | None = None
    parameters: Parameters = Parameters()
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] = Field([], max_length=3)


def refuse(error: ServiceError) -> Answer:
    """As the specification has errors: one sentence."""
    return Answer(orjson.dumps({"error": error.detail}), JSON, error.headers, error.status)


class InferenceOperation(Operation):
    """An operation whose errors are the protocol's."""

    refuse = staticmethod(refuse)
    negotiated = False


async def live(_: StarletteRequest) -> Response:
    """Is the process alive?"""
    return Answer(orjson.dumps({"live": True}), JSON)


async def ready(request: StarletteRequest) -> Response:
    """Should traffic be sent here? 503 while the service starts and drains."""
    gate: AccessControl = request.app.state.gate
    is_ready = gate.admission.status == "ok"
    return Answer(orjson.dumps({"ready": is_ready}), JSON, status=200 if is_ready else 503)


async def server(request: Request, _: Annotated[NoOptions, Query()]) -> Response:
    """What this service is."""
    extensions = ["binary_tensor_data"]
    app = request.scope["app"]
    return Answer(orjson.dumps({"name": app.title, "version": app.version, "extensions": extensions}), JSON)


async def model(request: Request, _: Annotated[NoOptions, Query()]) -> Response:
    """What goes into the model and what comes out."""
    loaded = _named(request)
    image, z = list(loaded.engine.config.image_shape), list(loaded.engine.config.latent_shape)

    def tensors(*described: tuple[str, list[int]]) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": "FP32", "shape": [-1, *shape]} for name, shape in described]

    document = {
        "name": loaded.name,
        "versions": [VERSION],
        "platform": "pytorch_vae",
        "inputs": tensors(("image", image), ("z", z)),
        "outputs": tensors(("mean", z), ("log_variance", z), ("image", image)),
    }
    return Answer(orjson.dumps(document), JSON)


async def model_ready(request: Request, _: Annotated[NoOptions, Query()]) -> Response:
    """Can the model be asked? It can where this is answered."""
    return Answer(orjson.dumps({"name": _named(request).name, "ready": True}), JSON)


async def infer(request: Request, _: Annotated[NoOptions, Query()]) -> Response:
    """Images to posteriors and reconstructions, or latents to images."""
    loaded = _named(request)
    body = await request.read(loaded.limits.body)
    length = _json_length(request, body)
    seconds = length * (LONG_JSON_BYTE_S if length > VALUES else JSON_BYTE_S) + (len(body) - length) * VALUE_S
    asked, wishes, rows = await request.run(seconds, _read, request, body, length, loaded)
    config = loaded.engine.config
    for wish in wishes:
        shape = config.image_shape if wish.name == "image" else config.latent_shape
        reserve(request, BINARY if _is_binary(asked, wish) else JSON, len(rows) * prod(shape))
    outputs = await _outputs(request, loaded, asked.inputs[0].name, rows, {wish.name for wish in wishes})
    seconds = sum(array.size for array in outputs.values()) * JSON_VALUE_S
    return await request.run(seconds, _answer, loaded.name, asked, wishes, outputs)


def _named(request: Request) -> ModelContext:
    loaded: ModelContext = request.scope["app"].state["loaded"]
    parameters = request.scope["path_params"]
    name, version = parameters["name"], parameters.get("version", VERSION)
    if (name, version) != (loaded.name, VERSION):
        raise NotFound(f"There is no model {name!r} of version {version!r} here; {loaded.name!r}, {VERSION!r} is.")
    return loaded


def _json_length(request: Request, body: bytes) -> int:
    """Bytes of the JSON at the start of `body`."""
    told = request.field(JSON_LENGTH.lower().encode())
    if not told:
        return len(body)
    length = int(told) if LENGTH.fullmatch(told) else -1
    if not 0 <= length <= len(body):
        wanted = "the length of the JSON at the start of the body is wanted"
        raise UnreadableBody(f"{JSON_LENGTH} is {brief(told)}; {wanted}.")
    return length


def _read(
    request: Request, body: bytes, length: int, loaded: ModelContext
) -> tuple[Inference, Sequence[RequestedOutput], FloatArray]:
    """A request: its JSON, of so many bytes, the outputs that it asks for, and the rows of its tensor."""
    numbers = loaded.limits.batch * prod(loaded.engine.config.image_shape)
    try:
        asked = Inference.model_validate(read_json(body[:length], request.reserve, numbers=numbers))
    except ValidationError as error:
        raise invalid("body", error) from error
    tensor = asked.inputs[0]
    wishes = asked.outputs or [RequestedOutput.model_validate({"name": name}) for name in GIVEN_FOR[tensor.name]]
    for wish in wishes:
        if wish.name not in GIVEN_FOR[tensor.name]:
            problem = f"The output {wish.name!r} is not given for {tensor.name!r}; {GIVEN_FOR[tensor.name]} are."
            raise InvalidInput(Problem("body", "/outputs", problem))
    return asked, wishes, _rows(tensor, memoryview(body)[length:], loaded, request.reserve)


def _rows(tensor: Tensor, binary: memoryview, loaded: ModelContext, reserve: Reserve) -> FloatArray:
    """The tensor's values, checked, (N, …) float32."""
    config = loaded.engine.config
    shape = config.image_shape if tensor.name == "image" else config.latent_shape
    if tuple(tensor.shape[1:]) != shape:
        raise _wrong(
            "shape", f"{tensor.name} has the shape {brief(tensor.shape)}; [N, {', '.join(map(str, shape))}] is wanted."
        )
    loaded.limits.check_batch(tensor.shape[0])
    loaded.limits.check_pixels(tensor.shape[0], config.image_shape)
    if tensor.name == "z" and tensor.datatype != "FP32":
        raise _wrong("datatype", f"z is of {tensor.datatype}; FP32 is wanted.")
    reserve(CONVERTED_BYTES * prod(tensor.shape))
    rows = _values(tensor, binary, DATATYPES[tensor.datatype]).reshape(tensor.shape)
    if tensor.datatype == "UINT8":
        pixels = rows.astype(np.float32)
        pixels /= np.float32(255)
        return pixels
    lowest, highest, wanted = RANGES[tensor.name]
    if not ((rows >= lowest) & (rows <= highest)).all():
        raise _wrong("data", f"{tensor.name} holds others than {wanted} that are wanted.")
    return without_subnormals(rows) if tensor.name == "image" else rows


def _values(tensor: Tensor, binary: memoryview, datatype: type[np.generic]) -> Array:
    """From the JSON, nested or flat, or from what follows it."""
    count = prod(tensor.shape)
    if tensor.parameters.binary_data_size is not None:
        wanted = count * np.dtype(datatype).itemsize
        if not tensor.parameters.binary_data_size == len(binary) == wanted:
            sizes = f"{tensor.parameters.binary_data_size} bytes are told, {len(binary)} came, {wanted} are wanted"
            raise _wrong("parameters/binary_data_size", f"{tensor.name}: {sizes} for the shape {tensor.shape}.")
        return np.frombuffer(binary, np.dtype(datatype).newbyteorder("<")).astype(datatype, copy=False)
    try:
        numbers = _numbers(tensor.data)
        with np.errstate(over="ignore", invalid="ignore"):  # what FP32 cannot hold becomes infinite, and is refused
            values = numbers.astype(datatype)
        if datatype is np.uint8 and not (values == numbers).all():
            raise ValueError("not bytes")  # noqa: TRY301
    except (ValueError, OverflowError) as error:
        raise _wrong("data", f"{tensor.name}: a list of numbers of {tensor.datatype} is wanted.") from error
    if values.size != count:
        raise _wrong("data", f"{tensor.name}: {values.size} numbers came; {count} are wanted for {tensor.shape}.")
    return values


def _numbers(data: Any) -> Array:
    """Float64, flat; raises ValueError for others than lists of numbers."""
    if isinstance(data, np.ndarray):
        return data.ravel()
    if not isinstance(data, list | None):
        raise ValueError("no list")  # noqa: TRY004 - told as all others are
    told = np.array(data or [], object).ravel()  # of a text NumPy would make room for as many as it is long
    if not set(map(type, told)) <= {int, float}:
        raise ValueError("not numbers")
    return told.astype(np.float64)


async def _outputs(
    request: Request, loaded: ModelContext, name: str, rows: FloatArray, wanted: set[str]
) -> Mapping[str, Array]:
    if name == "z":
        await count_distances(request, loaded, rows)
        return {"image": await loaded.engine.decode(rows, timing=request.timing)}
    if "image" in wanted:
        result = await loaded.engine.reconstruct(rows, timing=request.timing)
        return {"mean": result.mean, "log_variance": result.log_variance, "image": result.pixels}
    mean, log_variance = await loaded.engine.encode(rows, timing=request.timing)
    return {"mean": mean, "log_variance": log_variance}


def _is_binary(asked: Inference, wish: RequestedOutput) -> bool:
    as_binary = wish.parameters.binary_data
    return asked.parameters.binary_data_output if as_binary is None else as_binary


def _answer(name: str, asked: Inference, wishes: Sequence[RequestedOutput], outputs: Mapping[str, Array]) -> Answer:
    tensors: list[bytes] = []
    binary: list[bytes] = []
    for wish in wishes:
        array = np.ascontiguousarray(outputs[wish.name], "<f4")
        tensor: dict[str, Any] = {"name": wish.name, "datatype": "FP32", "shape": list(array.shape)}
        tensors.append(b",")
        if _is_binary(asked, wish):
            tensor["parameters"] = {"binary_data_size": array.nbytes}
            tensors.append(orjson.dumps(tensor))
            binary.append(array.tobytes())
        else:
            tensors += orjson.dumps(tensor)[:-1], b',"data":', *write_values(array.reshape(-1)), b"}"
    document = {"model_name": name, "model_version": VERSION, **({} if asked.id is None else {"id": asked.id})}
    head = b"".join((orjson.dumps(document)[:-1], b',"outputs":[', *tensors[1:], b"]}"))
    if not binary:
        return Answer(head, JSON)
    return Answer(b"".join((head, *binary)), BINARY, {JSON_LENGTH: str(len(head))})


def _wrong(place: str, problem: str) -> InvalidInput:
    return InvalidInput(Problem("body", f"/inputs/0/{place}", problem))


_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_NAMED = {"name": "mnist", "ready": True}
_TENSOR = {"name": "z", "datatype": "FP32", "shape": [-1, 3]}
_CARD = {"name": "mnist", "versions": [VERSION], "platform": "pytorch_vae", "inputs": [_TENSOR], "outputs": [_TENSOR]}
_ASKED = {"inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [0.1, -0.2, 0.3]}]}
_GIVEN = {
    "model_name": "mnist",
    "model_version": VERSION,
    "outputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [0.0, 0.02, 0.97, 0.4]}],
}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "/v2": {"name": "VAE service", "version": "0.1.0", "extensions": ["binary_tensor_data"]},
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"ready": True},
    "ready": _NAMED,
    "infer": _GIVEN,
}
_SUMMARIES = {
    "/v2": "Name, version and extensions of the server",
    "/v2/health/live": "200 as long as the process can respond",
    "/v2/health/ready": "200 while the service takes requests, 503 while it starts or drains",
    "ready": "200 where the model is served under this name",
    "infer": "Tensor image → its mean, log_variance and reconstruction; tensor z → image",
    "model": "Names, datatypes and shapes of the model's inputs and outputs",
}
_STATUSES = {
    400: "The body is not JSON, or its length was told wrongly.",
    401: "This service asks for an API key, and none or a wrong one was sent.",
    404: "There is no such model, or no such version of it.",
    413: "The body or the batch is over the limit.",
    422: "A tensor of the wrong name, datatype, shape or range, or an unknown parameter.",
    429: "This API key holds its whole share of the queue.",
    503: "The queue is full, the memory is in use, or the service starts or stops; try again.",
    504: "Not answered within the deadline.",
}


def describe(path: str) -> dict[str, Any]:
    """Keyword arguments of `add_api_route` that document the route at `path`."""
    kind = path.rpartition("/")[2]
    example = _EXAMPLES.get(path) or _EXAMPLES.get(kind, _CARD)
    summary = _SUMMARIES.get(path) or _SUMMARIES.get(kind, _SUMMARIES["model"])
    route = {"tags": ["open inference protocol"], "summary": summary}
    done: dict[str, Any] = {JSON: {"schema": {"type": "object"}, "example": example}}
    responses: dict[int | str, dict[str, Any]] = {200: {"description": "Done.", "content": done}}
    if "/health/" in path:
        if kind == "ready":
            not_ready = {JSON: {"schema": {"type": "object"}, "example": {"ready": False}}}
            responses[503] = {"description": "Starting or draining.", "content": not_ready}
        return {**route, "responses": responses}
    extra: dict[str, Any] = {"security": [{}, {"bearer": []}, {"key": []}]}
    possible = set(_STATUSES) - ({400, 413} if kind != "infer" else set()) - ({404} if path == "/v2" else set())
    for status in sorted(possible):
        content = {JSON: {"schema": _ERROR, "example": {"error": _STATUSES[status]}}}
        responses[status] = {"description": _STATUSES[status], "content": content}
    if kind == "infer":
        binary = {"schema": {"type": "string", "format": "binary"}}
        done[BINARY] = binary
        request = {JSON: {"schema": {"type": "object"}, "example": _ASKED}, BINARY: binary}
        description = (
            "JSON, or JSON and then the values of a tensor, the JSON's length in the header field " + JSON_LENGTH
        )
        extra["requestBody"] = {"required": True, "description": description, "content": request}
    return {**route, "responses": responses, "openapi_extra": extra}
