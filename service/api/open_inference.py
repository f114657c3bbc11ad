"""The Open Inference Protocol, version 2 (KServe, Triton, Seldon), with the binary tensor extension.

A model has its checkpoint's name, or that in the folder of models. It takes `image`, (N, C, H, W), UINT8 (0 to 255) or
FP32 (0 to 1), or `z`, (N, …), FP32. For an image it gives `mean`, `log_variance` and `image`, its reconstruction from
the mean; if they are requested also the scores of /score with its default options, (N,); for a latent `image`: FP32
(N, C, H, W) in [0, 1].
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
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from service import version
from service.api.bodies import CONVERTED_BYTES, JSON, invalid_input, or_others, without_subnormals
from service.api.context import ModelContext, Models, count_distances, model_context
from service.api.offloading import JSON_BYTE_S, JSON_VALUE_S, LONG_JSON_BYTE_S, VALUE_S
from service.api.operation import AccessControl, Operation
from service.api.request import Request
from service.api.responses import BytesResponse, FloatArray, reserve_response, write_values
from service.api.schemas import LATENT_BOUND, NoOptions
from service.api.scoring import reserve_scores, score
from service.api.videos import accepts_latents, accepts_videos
from service.errors import InvalidInput, Problem, ServiceError, UnreadableBody
from service.formats.json_reader import VALUES, read_json
from service.memory_budget import Reserve
from vae.calibration import LEVEL
from vae.noise import DRAWS, SEED

BINARY = "application/octet-stream"
JSON_LENGTH = "Inference-Header-Content-Length"
LENGTH = re.compile(r"\d{1,18}", re.ASCII)
DATATYPES: dict[str, type[np.generic]] = {"UINT8": np.uint8, "FP32": np.float32}
OUTPUTS = {"image": ("mean", "log_variance", "image"), "z": ("image",)}
"""Of each input, unless the request names its outputs."""
SCORES = ("elbo", "elbo_standard_error", "reconstruction_loss", "kl_divergence")
RANGES = {
    "image": (0.0, 1.0, "numbers in [0, 1], or UINT8"),
    "z": (-LATENT_BOUND, LATENT_BOUND, f"finite numbers within ±{LATENT_BOUND:g}"),
}
"""Lowest and highest FP32, and both in words."""

Array = npt.NDArray[Any]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Parameters(_Part):
    """Parameters of a tensor or a request; unknown ones are ignored."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = None
    binary_data: bool | None = None
    binary_data_output: bool = False


class Tensor(_Part):
    """An input."""

    name: Literal["image", "z"]
    shape: list[Annotated[int, Field(ge=1)]] = Field(max_length=5)
    datatype: Literal["UINT8", "FP32"]
    parameters: Parameters = Parameters()
    data: Any = None


class RequestedOutput(_Part):
    """An output that the request asks for."""

    name: Literal[
        "mean",
        "log_variance",
        "image",
        "elbo",
        "elbo_standard_error",
        "reconstruction_loss",
        "kl_divergence",
        "importance_weighted_bound",
        "outlier_factor",
        "percentile",
    ]
    parameters: Parameters = Parameters()


class Inference(_Part):
    """The JSON of a request."""

    id: str | None = None
    parameters: Parameters = Parameters()
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] = Field([], max_length=10)


def error_response(error: ServiceError) -> BytesResponse:
    """Return the response to an error, in the form of the protocol: one sentence."""
    return BytesResponse(orjson.dumps({"error": error.detail}), JSON, error.headers, error.status)


class InferenceOperation(Operation):
    """An operation whose error responses have the protocol's form."""

    error_response = staticmethod(error_response)
    negotiated = False
    has_model_path = False


async def live(_: StarletteRequest) -> Response:
    """Return 200 as long as the process can respond."""
    return BytesResponse(orjson.dumps({"live": True}), JSON)


async def ready(request: StarletteRequest) -> Response:
    """Return 200 while the service takes requests, and 503 while it starts or drains."""
    access: AccessControl = request.app.state.access_control
    is_ready = access.admission.status == "ok"
    return BytesResponse(orjson.dumps({"ready": is_ready}), JSON, status=200 if is_ready else 503)


async def server(_: Request, __: NoOptions) -> Response:
    """Return the name, version and extensions of the server."""
    extensions = ["binary_tensor_data", "model_repository"]
    return BytesResponse(
        orjson.dumps({"name": version.TITLE, "version": version.VERSION, "extensions": extensions}), JSON
    )


async def model(request: Request, _: NoOptions) -> Response:
    """Return the names, datatypes and shapes of the model's inputs and outputs."""
    context = model_context(request)
    served: Models = request.scope["app"].state["models"]
    config = context.engine.config
    image, z = list(config.image_shape), list(config.latent_shape)
    if config.is_video:  # of any size
        image[1:] = z[1:] = [-1] * 3

    def tensors(*described: tuple[str, list[int]]) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": "FP32", "shape": [-1, *shape]} for name, shape in described]

    scores: list[tuple[str, list[int]]] = [(name, []) for name in _scores(context)]
    document = {
        "name": context.name,
        "versions": [version for name, version in served.catalogue.by_key if name == context.name],
        "platform": "pytorch_vae",
        "inputs": tensors(("image", image), ("z", z)),
        "outputs": tensors(("mean", z), ("log_variance", z), ("image", image), *scores),
    }
    return BytesResponse(orjson.dumps(document), JSON)


async def model_ready(request: Request, _: NoOptions) -> Response:
    """Return 200 if the model is served under this name."""
    return BytesResponse(orjson.dumps({"name": model_context(request).name, "ready": True}), JSON)


async def infer(request: Request, _: NoOptions) -> Response:
    """Encode and reconstruct images, or decode latents."""
    context = model_context(request)
    body = await request.read(context.limits.body)
    length = _json_length(request, body)
    seconds = length * (LONG_JSON_BYTE_S if length > VALUES else JSON_BYTE_S) + (len(body) - length) * VALUE_S
    inference, requested, rows = await request.run(seconds, _read, request, body, length, context)
    config = context.engine.config
    wanted: set[str] = {output.name for output in requested}
    if wanted.intersection(_scores(context)):
        reserve_scores(request, context, len(rows), DRAWS, context.samples)
    is_latent = inference.inputs[0].name == "z"
    image_shape = (config.image_shape_of(rows.shape[1:]) or config.image_shape) if is_latent else rows.shape[1:]
    for output in requested:
        shape = image_shape if output.name == "image" else config.latent_shape_of(image_shape)
        reserve_response(request, BINARY if _is_binary(inference, output) else JSON, len(rows) * prod(shape))
    outputs = await _outputs(request, context, inference.inputs[0].name, rows, wanted)
    seconds = sum(array.size for array in outputs.values()) * JSON_VALUE_S
    return await request.run(seconds, _response, context, inference, requested, outputs)


def _json_length(request: Request, body: bytes) -> int:
    """Return the length in bytes of the JSON at the start of `body`."""
    given = request.field(JSON_LENGTH.lower().encode())
    if not given:
        return len(body)
    length = int(given) if LENGTH.fullmatch(given) else -1
    if not 0 <= length <= len(body):
        expected = "the length of the JSON at the start of the body is expected"
        raise UnreadableBody(f"{JSON_LENGTH} is {brief(given)}; {expected}.")
    return length


def _read(
    request: Request, body: bytes, length: int, context: ModelContext
) -> tuple[Inference, Sequence[RequestedOutput], FloatArray]:
    """Read a body whose JSON has `length` bytes: the request, its requested outputs, and the rows of its tensor."""
    numbers = context.limits.batch * prod(context.engine.config.image_shape)
    try:
        inference = Inference.model_validate(read_json(body[:length], request.reserve, numbers=numbers))
    except ValidationError as error:
        raise invalid_input("body", error) from error
    tensor = inference.inputs[0]
    requested = inference.outputs or [RequestedOutput.model_validate({"name": name}) for name in OUTPUTS[tensor.name]]
    known = (*OUTPUTS[tensor.name], *(_scores(context) if tensor.name == "image" else ()))
    for output in requested:
        if output.name not in known:
            problem = f"{tensor.name!r} has no output {output.name!r}; its outputs are {', '.join(known)}."
            raise InvalidInput(Problem("body", "/outputs", problem))
    return inference, requested, _rows(tensor, memoryview(body)[length:], context, request.reserve)


def _rows(tensor: Tensor, binary: memoryview, context: ModelContext, reserve: Reserve) -> FloatArray:
    """Read and check the tensor's values: (N, …), float32."""
    config = context.engine.config
    shape = config.image_shape if tensor.name == "image" else config.latent_shape
    is_image, found = tensor.name == "image", tuple(tensor.shape[1:])
    accepts = accepts_videos(config) if is_image else accepts_latents(config)
    if not (accepts(found) if accepts else found == shape):
        expected = f"[N, {', '.join(map(str, shape))}] is expected{or_others(accepts)}"
        raise _invalid("shape", f"{tensor.name} has the shape {brief(tensor.shape)}; {expected}.")
    context.limits.check_batch(tensor.shape[0])
    context.limits.check_pixels(tensor.shape[0], (not is_image and config.image_shape_of(found)) or found)
    if tensor.name == "z" and tensor.datatype != "FP32":
        raise _invalid("datatype", f"z has the datatype {tensor.datatype}; FP32 is expected.")
    reserve(CONVERTED_BYTES * prod(tensor.shape))
    rows = _values(tensor, binary, DATATYPES[tensor.datatype]).reshape(tensor.shape)
    if tensor.datatype == "UINT8":
        pixels = rows.astype(np.float32)
        pixels /= np.float32(255)
        return pixels
    lowest, highest, expected = RANGES[tensor.name]
    if not ((rows >= lowest) & (rows <= highest)).all():
        raise _invalid("data", f"{tensor.name} has values that are not {expected}.")
    return without_subnormals(rows) if tensor.name == "image" else rows


def _values(tensor: Tensor, binary: memoryview, datatype: type[np.generic]) -> Array:
    """Read the values from the JSON, nested or flat, or from the bytes that follow it."""
    count = prod(tensor.shape)
    if tensor.parameters.binary_data_size is not None:
        size = count * np.dtype(datatype).itemsize
        if not tensor.parameters.binary_data_size == len(binary) == size:
            sizes = f"binary_data_size is {tensor.parameters.binary_data_size}, and {len(binary)} bytes follow the JSON"
            problem = f"{tensor.name}: {sizes}; {size} are expected for the shape {tensor.shape}."
            raise _invalid("parameters/binary_data_size", problem)
        return np.frombuffer(binary, np.dtype(datatype).newbyteorder("<")).astype(datatype, copy=False)
    try:
        numbers = _numbers(tensor.data)
        with np.errstate(over="ignore", invalid="ignore"):  # overflow gives infinity, which is refused
            values = numbers.astype(datatype)
        if datatype is np.uint8 and not (values == numbers).all():
            raise ValueError("not bytes")  # noqa: TRY301
    except (ValueError, OverflowError) as error:
        raise _invalid("data", f"{tensor.name}: a list of {tensor.datatype} numbers is expected.") from error
    if values.size != count:
        raise _invalid(
            "data", f"{tensor.name} has {values.size} numbers; {count} are expected for the shape {tensor.shape}."
        )
    return values


def _numbers(data: Any) -> Array:
    """Return a list of numbers as float64, flat; raises ValueError for anything else."""
    if isinstance(data, np.ndarray):
        return data.ravel()
    if not isinstance(data, list | None):
        raise ValueError("not a list")  # noqa: TRY004 - the caller catches ValueError
    values = np.array(data or [], object).ravel()  # as text, each item would get the length of the longest
    if not set(map(type, values)) <= {int, float}:
        raise ValueError("not numbers")
    return values.astype(np.float64)


async def _outputs(
    request: Request, context: ModelContext, name: str, rows: FloatArray, wanted: set[str]
) -> Mapping[str, Array]:
    if name == "z":
        await count_distances(request, context, rows)
        return {"image": await context.engine.decode(rows, timing=request.timing)}
    scored = bool(wanted.intersection(_scores(context)))
    if "image" in wanted or scored:
        result = await context.engine.reconstruct(rows, timing=request.timing)
        outputs: dict[str, Array] = {"mean": result.mean, "log_variance": result.log_variance, "image": result.pixels}
        if scored:
            outputs |= await score(
                request, context, rows, result, draws=DRAWS, samples=context.samples, seed=SEED, level=LEVEL
            )
        return outputs
    mean, log_variance = await context.engine.encode(rows, timing=request.timing)
    return {"mean": mean, "log_variance": log_variance}


def _scores(context: ModelContext) -> tuple[str, ...]:
    """Return which scores the model offers as outputs."""
    if context.engine.config.is_video:
        return ()
    available = {
        "importance_weighted_bound": context.samples > 0,
        "outlier_factor": context.references is not None,
        "percentile": context.calibration is not None,
    }
    return (*SCORES, *(name for name, is_available in available.items() if is_available))


def _is_binary(inference: Inference, output: RequestedOutput) -> bool:
    as_binary = output.parameters.binary_data
    return inference.parameters.binary_data_output if as_binary is None else as_binary


def _response(
    context: ModelContext, inference: Inference, requested: Sequence[RequestedOutput], outputs: Mapping[str, Array]
) -> BytesResponse:
    tensors: list[bytes] = []
    binary: list[bytes] = []
    for output in requested:
        array = np.ascontiguousarray(outputs[output.name], "<f4")
        tensor: dict[str, Any] = {"name": output.name, "datatype": "FP32", "shape": list(array.shape)}
        tensors.append(b",")
        if _is_binary(inference, output):
            tensor["parameters"] = {"binary_data_size": array.nbytes}
            tensors.append(orjson.dumps(tensor))
            binary.append(array.tobytes())
        else:
            tensors += orjson.dumps(tensor)[:-1], b',"data":', *write_values(array.reshape(-1)), b"}"
    document = {"model_name": context.name, "model_version": context.version}
    if inference.id is not None:
        document["id"] = inference.id
    head = b"".join((orjson.dumps(document)[:-1], b',"outputs":[', *tensors[1:], b"]}"))
    if not binary:
        return BytesResponse(head, JSON)
    return BytesResponse(b"".join((head, *binary)), BINARY, {JSON_LENGTH: str(len(head))})


def _invalid(pointer: str, problem: str) -> InvalidInput:
    return InvalidInput(Problem("body", f"/inputs/0/{pointer}", problem))
