"""The OpenAPI document, made by FastAPI when it is asked for; here is what FastAPI cannot infer from signatures."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter, Signature, getdoc
from typing import Any

from fastapi import Query
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response
from starlette.routing import BaseRoute

from pictures.opening import FORMATS
from service import errors
from service.api import etags_openapi, open_inference_openapi, response_schemas, schemas
from service.api.bodies import JSON, MULTIPART, NDJSON
from service.api.etags import CacheableOperation
from service.api.events import EVENT_STREAM
from service.api.openapi_models import MODEL_PARAMETERS, MODEL_PREFIX, STATE
from service.api.operation import Operation, Probe
from service.api.remote import openapi as remote_openapi
from service.api.remote.bodies import BASE64, TENSOR
from service.api.responses import OFFERS
from service.api.text_examples import text_contents
from service.formats.registry import ARRAY_FORMATS
from service.formats.videos import MP4, VIDEO_TYPES
from service.version import TITLE, VERSION

PNG, JPEG = "image/png", "image/jpeg"

DESCRIPTION = """\
Encode images to the latent space of a variational autoencoder, and decode latents to images.

- **Items and batches.** One image gives one latent, a batch of N gives N; the same holds for the other direction.
- **Formats.** The `Accept` header chooses the format of a response: a PNG; JSON, or NDJSON with one item per line; or
  arrays: one as npy, or all that JSON has, under the same names, as safetensors or an Arrow IPC stream (one item per
  row). Models of videos give an MP4 or an animated WebP too.
- **Events.** With `Accept: text/event-stream` a computation is followed by `progress` events; the last event is
  `result`, with the JSON of the response, or `error`.
- **Units.** Losses are in nats per image.
- **Models.** Where the service has several, `/models` lists them. `/models/NAME/decode` is `/decode` of one of them, in
  its highest version or that of `?version=`; NAME may be an alias. The routes without a name are those of the default
  model.
- **Errors** are `application/problem+json` (RFC 9457): `detail` says how to correct the request, `errors` points to
  each wrong field.
- **API keys**, where the service has any: `Authorization: Bearer KEY` or `x-api-key: KEY`.
"""
TAGS = [
    {"name": "latent space", "description": "Encode, decode and generate images."},
    {"name": "several models", "description": "The same routes for one of several models, by its name or alias."},
    {"name": "model", "description": "The models that are served, and the latents of their test sets."},
    {
        "name": "diffusers",
        "description": "For Hugging Face diffusers: what `remote_encode` and `remote_decode` of "
        "`diffusers.utils.remote_utils` send; also for SD.Next and ComfyUI-HFRemoteVae.",
    },
    {
        "name": "open inference protocol",
        "description": "For clients of KServe, Triton or Seldon: the Open Inference Protocol, version 2, with binary "
        "tensors.",
    },
    {"name": "probes", "description": "For orchestrators and Prometheus."},
]
SUMMARIES = {
    "/encode": ("latent space", "Image → mean and log-variance of its latent"),
    "/decode": ("latent space", "Latent → image"),
    "/reconstruct": ("latent space", "Image → its reconstruction, losses and ELBO"),
    "/score": (
        "latent space",
        "Image → how unusual it is: ELBO, losses, outlier factor, percentile; or where, as a map",
    ),
    "/sample": ("latent space", "Seed → images of latents drawn from the prior"),
    "/interpolate": ("latent space", "Two latents → images on the path from one to the other"),
    "/traverse": ("latent space", "Latent → images along one of its dimensions, or over a grid of two"),
    "/models": ("model", "Names, versions and states of all models"),
    "/latents": ("model", "Latents and labels of the test set"),
    "/model": ("model", "Shapes, training and metrics of the model"),
    "/remote/decode": ("diffusers", "Latent tensor → image, for remote_decode of diffusers"),
    "/remote/encode": ("diffusers", "Image → latent tensor, for remote_encode of diffusers"),
    "/livez": ("probes", "200 as long as the process can respond"),
    "/readyz": ("probes", "200 while the service takes requests, 503 while it starts or drains"),
    "/metrics": ("probes", "Counters and histograms of all workers, for Prometheus"),
}
"""Tag and summary of each route: what goes in → what comes out."""

Z = [0.1, -0.2, 0.3]
PIXELS = [[[0.0, 0.02], [0.97, 0.4]]]
BINARY = {"type": "string", "format": "binary"}
SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Required where the service has API keys."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key as a header."},
}
PROBES = ("/livez", "/readyz", "/metrics")

_IMAGE_BODY = {
    "description": "An image; several in a multipart form, in parts named `image`; or an array, uint8 (0 to 255) or "
    "floating (0 to 1), of the model's shape: (C, H, W) or (N, C, H, W), or without C where it is 1. Of several named "
    "arrays, `pixels` is used.",
    "required": True,
    "content": {
        MULTIPART: {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "array", "items": BINARY, "minItems": 1}},
            }
        },
        **{media_type: {"schema": BINARY} for media_type in (*FORMATS, *ARRAY_FORMATS)},
    },
}


def _json_body(model: type[BaseModel], *alternatives: dict[str, Any], **examples: Any) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    body: dict[str, Any] = {"schema": {"anyOf": [*alternatives, reference]} if alternatives else reference}
    if examples:
        body["examples"] = {name.replace("_", " "): {"value": value} for name, value in examples.items()}
    return body


_VECTOR = {"type": "array", "items": {"type": "number"}, "minItems": 1}
_LATENT_BODY = {
    "description": "A latent or a batch of latents, as JSON, as NDJSON (one latent per line) or as an array, of the "
    "model's latent shape: (D,) or (N, D), or (C', h, w) or (N, C', h, w) where latents are maps. Of several named "
    "arrays, `z` is used.",
    "required": True,
    "content": {
        JSON: _json_body(
            response_schemas.Latents,
            _VECTOR,
            {"type": "array", "items": _VECTOR, "minItems": 1},
            one_latent=Z,
            a_batch=[Z, [1, 0, -1]],
            with_a_name={"z": Z},
        ),
        NDJSON: {"schema": {"type": "string"}, "example": "[0.1, -0.2, 0.3]\n[1, 0, -1]\n"},
        **{media_type: {"schema": BINARY} for media_type in ARRAY_FORMATS},
    },
}
_INTERPOLATION = {"from": [-1, 0, 1], "to": [1, 1, 0], "steps": 8, "method": "spherical"}
_MAPS = {"$ref": "#/components/schemas/MapInterpolation"}
_TRAVERSAL = {"at": [0, 0, 0], "dimensions": [0, 1], "low": -2, "high": 2, "steps": 9}
_POSTERIOR = {"mean": Z, "log_variance": [-4.1, -3.8, -4.4]}
_LOSSES = {
    "reconstruction_loss": 71.3,
    "kl_divergence": 8.9,
    "plug_in_elbo": -80.2,
    "elbo": -83.6,
    "elbo_standard_error": 0.4,
}
_SCORES = {
    "elbo": -83.6,
    "elbo_standard_error": 0.4,
    "reconstruction_loss": 71.3,
    "kl_divergence": 8.9,
    "outlier_factor": 1.03,
    "percentile": 0.31,
    "anomalous": False,
}
_CARD = {
    "name": "mnist",
    "architecture": "mlp",
    "likelihood": "bernoulli",
    "image_shape": [1, 28, 28],
    "latent_shape": [3],
    "stride": None,
    "temporal_stride": None,
    "frame_rate": None,
    "normalisation": None,
    "dtype": "float32",
    "latent_dim": 3,
    "parameters": 927870,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "format_version": 1,
    "training": {"epochs": 60},
    "figures": {"test_neg_elbo": 125.9},
    "calibration": {
        "score": "outlier_factor",
        "draws": 10,
        "samples": 0,
        "seed": 0,
        "images": 5000,
        "highest_loss": 243.1,
    },
}

BODIES: dict[str, dict[str, Any]] = {
    "/encode": _IMAGE_BODY,
    "/decode": _LATENT_BODY,
    "/reconstruct": _IMAGE_BODY,
    "/score": _IMAGE_BODY,
    "/interpolate": {
        "required": True,
        "content": {JSON: _json_body(schemas.Interpolation, _MAPS, an_arc=_INTERPOLATION)},
    },
    "/traverse": {"required": True, "content": {JSON: _json_body(schemas.Traversal, a_grid=_TRAVERSAL)}},
    **remote_openapi.BODIES,
}

RESPONSES: dict[str, tuple[tuple[str, ...], type[BaseModel] | None, dict[str, Any]]] = {
    "/encode": ((*OFFERS, EVENT_STREAM), response_schemas.Posterior, _POSTERIOR),
    "/decode": ((PNG, *OFFERS, *VIDEO_TYPES, EVENT_STREAM), response_schemas.Images, {"pixels": PIXELS}),
    "/reconstruct": (
        (PNG, *OFFERS, *VIDEO_TYPES, EVENT_STREAM),
        response_schemas.ReconstructionAnswer,
        {**_POSTERIOR, **_LOSSES, "pixels": PIXELS},
    ),
    "/score": ((PNG, *OFFERS), response_schemas.ScoreAnswer, _SCORES),
    "/sample": ((PNG, *OFFERS, *VIDEO_TYPES), response_schemas.Samples, {"seed": 7, "z": [Z], "pixels": [PIXELS]}),
    "/interpolate": ((PNG, *OFFERS), response_schemas.Walk, {"z": [Z, Z], "pixels": [PIXELS, PIXELS]}),
    "/traverse": ((PNG, *OFFERS), response_schemas.Walk, {"z": [Z, Z], "pixels": [PIXELS, PIXELS]}),
    "/latents": (OFFERS, response_schemas.TestLatents, {"mean": [Z], "label": [7]}),
    "/model": ((JSON,), response_schemas.ModelCard, _CARD),
    "/models": ((JSON,), response_schemas.ModelList, {"models": [STATE]}),
    "/remote/decode": ((JPEG, PNG, MP4, TENSOR, BASE64), None, {}),
    "/remote/encode": ((TENSOR, BASE64), None, {}),
    "/livez": ((JSON,), response_schemas.Status, {"status": "ok"}),
    "/readyz": ((JSON,), response_schemas.Status, {"status": "ok"}),
}

_SEED = {"x-seed": {"description": "Seed of the random numbers, if any were drawn.", "schema": {"type": "integer"}}}
CONTENT = {BASE64: remote_openapi.BASE64_TENSOR}
"""Media types of responses that are not bytes, the same on each route."""
HEADERS = {
    **{path: {"headers": _SEED} for path in ("/encode", "/reconstruct", "/score", "/sample")},
    **{path: {"headers": remote_openapi.HEADERS} for path in ("/remote/decode", "/remote/encode")},
}

NOT_FOUND = {
    "/latents": "The checkpoint has no latents of a test set.",
    **dict.fromkeys(("/score", "/interpolate"), "The model is of videos."),
    "/traverse": "The model's latents are maps, which have no single dimension to vary.",
}

ERRORS: dict[type[errors.ServiceError], str] = {
    errors.UnreadableBody: "The body does not have its content type, or is truncated.",
    errors.Unauthorized: "The API key is missing or wrong.",
    errors.NotAcceptable: "The route can give none of the media types in `Accept`.",
    errors.TooLarge: "The body, the picture or the batch exceeds a limit.",
    errors.UnsupportedMediaType: "The route does not take this content type.",
    errors.InvalidInput: "A value of the wrong length, shape or range, or an unknown parameter.",
    errors.TooManyRequests: "This API key has used its share of the queue.",
    errors.Unavailable: "The queue or the memory is full, or the service is starting or stopping; try again.",
    errors.DeadlineExceeded: "The request took longer than the deadline.",
}
ALWAYS = (errors.Unauthorized, errors.InvalidInput, errors.TooManyRequests, errors.Unavailable, errors.DeadlineExceeded)
WITH_BODY = (errors.UnreadableBody, errors.TooLarge, errors.UnsupportedMediaType)


def describe(path: str) -> dict[str, Any]:
    """Return the arguments of an APIRoute that document the route at `path`."""
    tag, summary = SUMMARIES[path]
    route: dict[str, Any] = {"tags": [tag], "summary": summary}
    if path == "/metrics":
        done = {"description": "Done.", "content": {"text/plain": {"schema": {"type": "string"}}}}
        unauthorized = _problem(ERRORS[errors.Unauthorized], errors.Unauthorized)
        return {**route, "responses": {200: done, 401: unauthorized}}
    media_types, model, example = RESPONSES[path]
    content: dict[str, Any] = {media_type: CONTENT.get(media_type, {"schema": BINARY}) for media_type in media_types}
    if model:
        content[JSON] = {**_json_body(model), "example": example}
    content |= text_contents(media_types, example)
    responses: dict[int | str, dict[str, Any]] = {
        200: {"description": "Done.", "content": content, **HEADERS.get(path, {})}
    }
    extra: dict[str, Any] = {}
    if path in PROBES:
        if path == "/readyz":
            not_ready = {**_json_body(response_schemas.Status), "example": {"status": "draining"}}
            responses[503] = {"description": "Starting or draining.", "content": {JSON: not_ready}}
        return {**route, "responses": responses}
    if path in BODIES:
        extra["requestBody"] = BODIES[path]
    possible = [*ALWAYS, errors.NotAcceptable, *(WITH_BODY if path in BODIES else ())]
    if path == "/sample":
        possible.append(errors.TooLarge)
    if path in NOT_FOUND:
        responses[404] = _problem(NOT_FOUND[path], errors.NotFound)
    for error in possible:
        responses[int(error.status)] = _problem(ERRORS[error], error)
    extra["security"] = [{}, *({name: []} for name in SECURITY)]
    return {**route, "responses": dict(sorted(responses.items(), key=lambda r: int(r[0]))), "openapi_extra": extra}


def _problem(description: str, error: type[errors.ServiceError]) -> dict[str, Any]:
    example = {"type": "about:blank", "title": error.status.phrase, "status": int(error.status), "detail": description}
    return {
        "description": description,
        "content": {errors.MEDIA_TYPE: {**_json_body(response_schemas.ProblemDocument), "example": example}},
    }


def _documented(route: Operation | Probe, prefix: str = "") -> APIRoute:
    """Return `route` as FastAPI documents it. It is without HEAD, which follows from GET.

    With MODEL_PREFIX it is that of one model, which the path and the query name.
    """
    module_describe = open_inference_openapi.describe if route.path.startswith("/v2") else describe
    description = module_describe(route.path)
    if isinstance(route, CacheableOperation):
        etags_openapi.describe(description)

    def endpoint() -> None: ...

    if isinstance(route, Operation):
        kind = Parameter.POSITIONAL_OR_KEYWORD
        parameter = Parameter("options", kind, default=Query(), annotation=route.options)
        endpoint.__signature__ = Signature([parameter, *(MODEL_PARAMETERS if prefix else ())])  # type: ignore[attr-defined]  # which FastAPI reads
    if prefix:
        description["tags"] = ["several models"]
        description["responses"][404] = _problem("There is no such model or version.", errors.NotFound)
    return APIRoute(
        prefix + route.path,
        endpoint,
        methods=(route.methods or set()) - {"HEAD"},
        name=route.name,
        description=getdoc(route.endpoint),
        response_class=Response,
        **description,
    )


def openapi(described: Sequence[BaseRoute]) -> dict[str, Any]:
    """Return the OpenAPI document of those of `described` that are operations or probes."""
    documented = [route for route in described if isinstance(route, Operation | Probe)]
    of_models = [route for route in documented if isinstance(route, Operation) and route.has_model_path]
    routes = [*map(_documented, documented), *(_documented(route, MODEL_PREFIX) for route in of_models)]
    document = get_openapi(title=TITLE, version=VERSION, description=DESCRIPTION, routes=routes, tags=TAGS)
    components = document.setdefault("components", {})
    components["securitySchemes"] = SECURITY
    known = components["schemas"] = {}
    models: list[type[BaseModel]] = [
        response_schemas.Latents,
        schemas.Interpolation,
        schemas.MapInterpolation,
        schemas.Traversal,
        response_schemas.ProblemDocument,
    ]
    models += [model for _, model, _ in RESPONSES.values() if model]
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        known.update(schema.pop("$defs", {}))
        known[model.__name__] = schema
    return document
