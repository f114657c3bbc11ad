import asyncio
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Mount, Route

from service.api.events import EVENT_STREAM
from service.api.openapi import RESPONSES
from service.api.response_schemas import ProblemDocument
from service.app import QUERIES, create_app
from service.errors import MEDIA_TYPE
from tests.service.pictures import Bytes, png
from tests.service.running import Running

ROUTES = {
    "/": {"GET", "HEAD"},
    "/docs": {"GET", "HEAD"},
    "/docs/oauth2-redirect": {"GET", "HEAD"},
    "/openapi.json": {"GET", "HEAD"},
    "/encode": {"POST"},
    "/decode": {"POST"},
    "/reconstruct": {"POST"},
    "/score": {"POST"},
    "/sample": {"GET", "HEAD"},
    "/interpolate": {"GET", "HEAD", "POST"},
    "/traverse": {"GET", "HEAD", "POST"},
    "/latents": {"GET", "HEAD"},
    "/model": {"GET", "HEAD"},
    "/models": {"GET", "HEAD"},
    "/remote/decode": {"POST"},
    "/remote/encode": {"POST"},
    "/livez": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/metrics": {"GET", "HEAD"},
    "/v2": {"GET", "HEAD"},
    "/v2/repository/index": {"POST"},
    "/v2/health/live": {"GET", "HEAD"},
    "/v2/health/ready": {"GET", "HEAD"},
    **{f"/v2/models/{{name}}{version}": {"GET", "HEAD"} for version in ("", "/versions/{version}")},
    **{f"/v2/models/{{name}}{version}/ready": {"GET", "HEAD"} for version in ("", "/versions/{version}")},
    **{f"/v2/models/{{name}}{version}/infer": {"POST"} for version in ("", "/versions/{version}")},
}
FOLDERS = {"/web", "/static-offline-docs"}
IMAGES = {"image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif"}
JSON, NPY, FORM, PNG = "application/json", "application/x-npy", "multipart/form-data", "image/png"
NDJSON, TENSOR, BASE64 = "application/x-ndjson", "tensor/binary", "tensor/base64"
ARRAYS = (NPY, "application/x-safetensors", "application/vnd.apache.arrow.stream")
REMOTE = {
    "shape",
    "dtype",
    "do_scaling",
    "scaling_factor",
    "shift_factor",
    "input_tensor_type",
    "output_tensor_type",
}
PARAMETERS = {
    "/encode": {"fit", "invert", "draw", "seed"},
    "/decode": {"columns", "scale", "fps"},
    "/reconstruct": {"fit", "invert", "draw", "draws", "seed", "columns", "scale", "fps"},
    "/score": {"fit", "invert", "draws", "samples", "seed", "level", "map", "columns", "scale"},
    "/sample": {"n", "seed", "temperature", "columns", "scale", "frames", "fps"},
    "/interpolate": {"columns", "scale"},
    "/traverse": {"columns", "scale"},
    "GET /interpolate": {"from", "to", "steps", "method", "columns", "scale"},
    "GET /traverse": {"at", "dimensions", "low", "high", "steps", "columns", "scale"},
    "/latents": set(),
    "/model": set(),
    "/models": set(),
    "/remote/decode": REMOTE | {"output_type", "image_format", "partial_postprocess", "height", "width", "fps"},
    "/remote/encode": REMOTE,
    "/livez": set(),
    "/readyz": set(),
    "/metrics": set(),
}
REQUIRED = {"GET /interpolate": {"from", "to"}, "GET /traverse": {"at", "dimensions"}}
CACHEABLE = ("/sample", "/latents", "/model", *REQUIRED)
TAKEN = {
    "/encode": {*IMAGES, FORM, *ARRAYS},
    "/decode": {JSON, NDJSON, *ARRAYS},
    "/reconstruct": {*IMAGES, FORM, *ARRAYS},
    "/score": {*IMAGES, FORM, *ARRAYS},
    "/interpolate": {JSON},
    "/traverse": {JSON},
    "/remote/decode": {TENSOR, BASE64, JSON},
    "/remote/encode": {TENSOR, BASE64, JSON, *IMAGES},
}
GIVEN = {
    **dict.fromkeys(PARAMETERS, (JSON,)),
    "/sample": (PNG, JSON, *ARRAYS, NDJSON, "video/mp4", "image/webp"),
    **dict.fromkeys(("/decode", "/reconstruct"), (PNG, JSON, *ARRAYS, NDJSON, "video/mp4", "image/webp", EVENT_STREAM)),
    **dict.fromkeys(("/score", "/interpolate", "/traverse", *REQUIRED), (PNG, JSON, *ARRAYS, NDJSON)),
    "/encode": (JSON, *ARRAYS, NDJSON, EVENT_STREAM),
    "/latents": (JSON, *ARRAYS, NDJSON),
    "/remote/decode": ("image/jpeg", PNG, "video/mp4", TENSOR, BASE64),
    "/remote/encode": (TENSOR, BASE64),
    "/metrics": ("text/plain",),
}
ALWAYS = {"200", "401", "406", "422", "429", "503", "504"}
STATUSES = {
    **dict.fromkeys(TAKEN, ALWAYS | {"400", "413", "415"}),
    "/sample": ALWAYS | {"304", "413"},
    "GET /interpolate": ALWAYS | {"304", "404", "413"},
    "GET /traverse": ALWAYS | {"304", "404", "413"},
    **dict.fromkeys(("/score", "/interpolate", "/traverse"), ALWAYS | {"400", "404", "413", "415"}),
    "/latents": ALWAYS | {"304", "404"},
    "/model": ALWAYS | {"304"},
    "/models": ALWAYS,
    "/livez": {"200"},
    "/readyz": {"200", "503"},
    "/metrics": {"200", "401"},
}


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    loaded: dict[str, Any] = client.get("/openapi.json").json()
    return loaded


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The operations of the service's own API; other protocols have specifications."""
    found = {
        path: dict(item)
        for path, item in document["paths"].items()
        if not path.startswith(("/v2", "/models/"))  # the latter are the same routes of one model
    }
    assert {path: {method.upper() for method in item} for path, item in found.items()} == {
        path: ROUTES[path] - {"HEAD"} for path in PARAMETERS if path in ROUTES
    }
    by_query = {f"GET {path}": found[path].pop("get") for path in QUERIES}
    return by_query | {path: operation for path, item in found.items() for operation in item.values()}


def test_these_are_all_the_routes(served: Running) -> None:
    routes: dict[str, set[str]] = {}
    for route in served.app.routes:
        if isinstance(route, Route):
            routes[route.path] = routes.get(route.path, set()) | (route.methods or set())
    assert routes == ROUTES
    assert {route.path for route in served.app.routes if isinstance(route, Mount)} == FOLDERS
    assert len(served.app.routes) == len(ROUTES) + len(QUERIES) + len(FOLDERS)


@pytest.mark.parametrize("path", PARAMETERS)
def test_every_route_is_described(operations: dict[str, dict[str, Any]], path: str) -> None:
    operation = operations[path]
    assert len(operation["description"]) > 20
    parameters = {parameter["name"]: parameter for parameter in operation.get("parameters", ())}
    assert ("If-None-Match" in parameters) == (path in CACHEABLE)
    assert parameters.pop("If-None-Match", {"in": "header"})["in"] == "header"
    assert parameters.keys() == PARAMETERS[path]
    for name, parameter in parameters.items():
        assert parameter["in"] == "query"
        assert parameter["required"] == (name in REQUIRED.get(path, ()))
        assert len(parameter["description"]) > 10
    assert operation.get("requestBody", {}).get("content", {}).keys() == TAKEN.get(path, set())
    assert tuple(operation["responses"]["200"]["content"]) == GIVEN[path]
    assert operation["responses"].keys() == STATUSES[path]


@pytest.mark.parametrize("path", [path for path in PARAMETERS if path not in ("/livez", "/readyz", "/metrics")])
def test_every_error_is_described(operations: dict[str, dict[str, Any]], path: str) -> None:
    assert operations[path]["security"] == [{}, {"bearer": []}, {"key": []}]
    for status, response in operations[path]["responses"].items():
        if status not in ("200", "304"):
            assert len(response["description"]) > 20
            (content,) = response["content"].items()
            assert content[0] == MEDIA_TYPE
            assert ProblemDocument.model_validate(content[1]["example"]).status == int(status)


def test_every_operation_says_what_it_gives_and_every_tag_for_whom_it_is(document: dict[str, Any]) -> None:
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    summaries = {operation["operationId"]: operation["summary"] for operation in operations}
    for operation_id, summary in summaries.items():
        assert len(summary.split()) > 2, operation_id
        assert operation_id.endswith("_get") or "→" in summary
    described = {tag["name"]: tag["description"] for tag in document["tags"]}
    assert {tag for operation in operations for tag in operation["tags"]} == described.keys()
    assert "Hugging Face diffusers" in described["diffusers"]
    assert "KServe, Triton or Seldon" in described["open inference protocol"]


def test_the_routes_of_one_model_are_described_with_its_name(
    document: dict[str, Any], operations: dict[str, dict[str, Any]]
) -> None:
    of_one = {path for path in operations if path not in ("/models", "/livez", "/readyz", "/metrics")}
    prefix = "/models/{name}"
    found = {path.removeprefix(prefix): item for path, item in document["paths"].items() if path.startswith(prefix)}
    assert {
        f"GET {path}" if path in QUERIES and method == "get" else path for path in found for method in found[path]
    } == of_one
    for path in of_one:
        item = found[path.removeprefix("GET ")]
        operation = item["get" if path in CACHEABLE else "post"]
        parameters = {parameter["name"]: parameter["in"] for parameter in operation["parameters"]}
        caching = {"If-None-Match": "header"} if path in CACHEABLE else {}
        assert parameters == {**dict.fromkeys(PARAMETERS[path], "query"), "name": "path", "version": "query", **caching}
        assert "404" in operation["responses"]


def test_seeds_are_told(operations: dict[str, dict[str, Any]]) -> None:
    seeded = {
        path for path, operation in operations.items() if "x-seed" in operation["responses"]["200"].get("headers", {})
    }
    assert seeded == {path for path, parameters in PARAMETERS.items() if "seed" in parameters}


@pytest.mark.parametrize("path", CACHEABLE)
def test_fields_of_caching_are_described(operations: dict[str, dict[str, Any]], path: str) -> None:
    done, not_modified = (operations[path]["responses"][status] for status in ("200", "304"))
    assert not_modified["headers"].keys() == {"ETag", "Cache-Control"} <= done["headers"].keys()
    assert "content" not in not_modified


def references(part: object) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*map(references, part.values()))
    return set().union(*map(references, part)) if isinstance(part, list) else set()


def test_no_reference_dangles(document: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= known
    assert references(document["paths"]) | references(document["components"]) == known
    assert document["components"]["securitySchemes"].keys() == {"bearer", "key"}


def media_types(part: object) -> list[dict[str, Any]]:
    """Everything that stands under a `content`."""
    if isinstance(part, list):
        return [found for item in part for found in media_types(item)]
    if not isinstance(part, dict):
        return []
    own = list(part["content"].items()) if isinstance(part.get("content"), dict) else []
    return [dict(value, media_type=name) for name, value in own] + [
        found for value in part.values() for found in media_types(value)
    ]


def test_all_json_has_an_example_and_nothing_has_two_kinds_of_them(document: dict[str, Any]) -> None:
    found = media_types(document["paths"])
    assert len(found) > 50
    for media_type in found:
        assert "schema" in media_type
        examples = [name for name in ("example", "examples") if name in media_type]
        is_text = "json" in media_type["media_type"] or media_type["media_type"] in (BASE64, EVENT_STREAM)
        assert len(examples) == is_text, media_type
        assert all(media_type[name] for name in examples)


EXAMPLES = {
    "/decode": ["one latent", "a batch", "with a name"],
    "/interpolate": ["an arc"],
    "/traverse": ["a grid"],
}


def test_every_example_of_a_body_is_answered(client: httpx.Client, operations: dict[str, dict[str, Any]]) -> None:
    for path, names in EXAMPLES.items():
        examples = operations[path]["requestBody"]["content"][JSON]["examples"]
        assert list(examples) == names
        for example in examples.values():
            assert client.post(path, json=example["value"]).status_code == 200


def matches(model: type[BaseModel], value: object) -> None:
    """`value` is a `model`, with no field too many."""
    model.model_validate(value)
    assert isinstance(value, dict)
    assert value.keys() <= {field.alias or name for name, field in model.model_fields.items()}
    required = {field.alias or name for name, field in model.model_fields.items() if field.is_required()}
    assert required <= value.keys()


@pytest.mark.parametrize("path", [path for path, (_, model, _) in RESPONSES.items() if model])
def test_answers_are_what_is_documented(client: httpx.Client, images: Bytes, path: str) -> None:
    _, model, example = RESPONSES[path]
    assert model
    matches(model, example)
    bodies: dict[str, Any] = {
        "/decode": {"json": [0, 0, 0]},
        "/interpolate": {"json": {"from": [0, 0, 0], "to": [1, 1, 1]}},
        "/traverse": {"json": {"at": [0, 0, 0], "dimensions": [0]}},
    }
    headers = {"accept": JSON}
    queries = {
        "/encode": ("", "?draw=true"),
        "/reconstruct": ("", "?draw=true", "?draws=2"),
        "/score": ("?map=true&samples=3", ""),
    }
    if path in queries:
        for query in queries[path]:
            sent = {**headers, "content-type": PNG}
            answer = client.post(path + query, content=png(images[0]), headers=sent)
            matches(model, answer.json())
        calibrated = (
            {"outlier_factor", "percentile", "anomalous"} if path == "/score" else set()
        )  # the bundled checkpoint is not
        assert set(example) - calibrated <= answer.json().keys()
    else:
        method = "POST" if path in bodies else "GET"
        answer = client.request(method, path, headers=headers, **bodies.get(path, {}))
        matches(model, answer.json())
        assert set(example) == answer.json().keys()


def test_the_example_of_a_service_that_is_not_ready_says_so(operations: dict[str, dict[str, Any]]) -> None:
    not_ready = operations["/readyz"]["responses"]["503"]["content"][JSON]
    assert not_ready["example"]["status"] != "ok"


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/oauth2-redirect"])
def test_the_documentation_is_rendered_once(client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    first = client.get(path)
    assert first.status_code == 200

    def render(*_: object, **__: object) -> bytes:
        raise AssertionError("It has been rendered already.")

    monkeypatch.setattr(JSONResponse, "render", render)
    monkeypatch.setattr(HTMLResponse, "render", render)
    again = client.get(path)
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(again.headers.get_list("x-request-id")) == 1


def test_several_may_ask_first_for_the_documentation() -> None:
    """FastAPI is imported by the first request, in a thread."""

    async def get_all() -> list[int]:
        transport = httpx.ASGITransport(create_app())
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            responses = await asyncio.gather(*(client.get(path) for path in ("/docs", "/openapi.json") * 4))
        return [response.status_code for response in responses]

    assert asyncio.run(get_all()) == [200] * 8


def test_below_a_root_path_the_documentation_names_it(served: Running) -> None:
    async def get(root_path: str, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(served.app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            return await client.get(root_path + path)

    for _ in range(2):
        assert asyncio.run(get("/vae", "/openapi.json")).json()["servers"] == [{"url": "/vae"}]
        assert "servers" not in asyncio.run(get("", "/openapi.json")).json()
        assert "'/vae/openapi.json'" in asyncio.run(get("/vae", "/docs")).text
        assert "'/openapi.json'" in asyncio.run(get("", "/docs")).text
