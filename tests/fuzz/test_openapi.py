"""The live OpenAPI document against the service: whatever it allows or forbids is answered as it says."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig

from pictures.opening import FORMATS
from service.api.bodies import JSON, MULTIPART
from service.api.openapi import BODIES, RESPONSES
from service.app import INFERENCE, QUERIES
from tests.fuzz import inputs
from tests.service.running import Running, running

pytestmark = pytest.mark.slow

MEDIA_TYPES = {media_type for body in BODIES.values() for media_type in body["content"]} - {JSON, MULTIPART}
PICTURES = {media_type: inputs.drawn(name) for media_type, name in FORMATS.items()}
TENSORS = st.lists(st.floats(width=32), min_size=3, max_size=6).map(lambda z: np.array(z, "<f4").tobytes())


def as_base64(tensor: bytes) -> dict[str, str]:
    return {"inputs": b64encode(tensor).decode()}


GENERATED: dict[str, st.SearchStrategy[bytes]] = {
    **PICTURES,
    **{media_type: st.sampled_from(sound) for media_type, sound in inputs.NAMED.items()},
    "application/x-npy": inputs.written(),
    "tensor/binary": TENSORS,
    "tensor/base64": TENSORS.map(lambda tensor: json.dumps(as_base64(tensor)).encode()),
}
# A schema does not say the name of the model, the size of its latents, what a picture is, and when a product of two
# numbers is too large. If-None-Match may be *.
EXPECTED = ["2xx", 304, 400, 404, 413, 422]

PATHS = [*RESPONSES, "/metrics", *INFERENCE, "/v2/health/live", "/v2/health/ready"]
POSTED = [path for path in PATHS if path in BODIES or INFERENCE.get(path, ("GET",))[0] == "POST"]
ROUTES = [
    *(("POST" if path in POSTED else "GET", path) for path in PATHS),
    *(("GET", path) for path in QUERIES),
]
MODEL = {"name": "mnist", "version": "1"}
LATENT = st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3)
DECODED: dict[str, Any] = {"name": "z", "datatype": "FP32", "shape": [1, 3]}
FITTING: dict[str, st.SearchStrategy[Any]] = {
    "/decode": st.one_of(LATENT, st.lists(LATENT, min_size=1, max_size=4), LATENT.map(lambda z: {"z": z})),
    "/interpolate": st.fixed_dictionaries({"from": LATENT, "to": LATENT, "method": st.just("spherical")}),
    "/remote/decode": TENSORS.map(as_base64),
    "/traverse": st.fixed_dictionaries({"at": LATENT, "dimensions": st.permutations([0, 1, 2]).map(lambda d: d[:2])}),
    **dict.fromkeys(
        (path for path in INFERENCE if path.endswith("/infer")),
        LATENT.map(lambda z: {"inputs": [{**DECODED, "data": z}]}),
    ),
}
FITTING_QUERIES = {
    "/interpolate": {"from": "0,0.5,-2", "to": "1,1,1"},
    "/traverse": {"at": "0,0.5,-2", "dimensions": "2,0"},
}
"""Latents of this model; the schema does not say their size."""

PARTS = st.one_of(*PICTURES.values(), inputs.pictures())
"""The schema says that they are bytes, not that they are pictures."""

for media_type in sorted(MEDIA_TYPES):
    schemathesis.openapi.media_type(media_type, GENERATED.get(media_type, st.binary()))
schemathesis.openapi.format("binary", PARTS)
load_all_checks()
EVERYTHING: list[Any] = CHECKS.get_all()


@pytest.fixture(scope="module")
def services() -> Iterator[list[Running]]:
    """The service without API keys, and with one."""
    with running() as without, running(api_keys=("key",)) as locked:
        yield [without, locked]


@pytest.fixture(scope="module")
def document(services: list[Running]) -> schemathesis.BaseSchema:
    config = SchemathesisConfig.from_dict({"checks": {"positive_data_acceptance": {"expected-statuses": EXPECTED}}})
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{services[0].port}/openapi.json", config=config)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_is_as_documented(
    services: list[Running], document: schemathesis.BaseSchema, method: str, path: str
) -> None:
    operation = document[path][method]
    good, bad = (operation.as_strategy(generation_mode=mode) for mode in GenerationMode)

    bodies = FITTING.get(path, st.none()) if method == "POST" else st.none()

    @given(good | bad, bodies | st.none(), st.booleans(), st.sampled_from(services))
    @settings(
        max_examples=settings().max_examples // 4,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def every_case(case: schemathesis.Case[Any], fitting: Any, known: bool, service: Running) -> None:
        if known:
            case.path_parameters |= {name: MODEL[name] for name in case.path_parameters if name in MODEL}
        if fitting is not None:
            case.body, case.media_type = fitting, JSON
        if method == "GET" and path in FITTING_QUERIES and known:
            case.query |= FITTING_QUERIES[path]
        if path == "/remote/decode" and known:
            case.query |= {"shape": [1, 3]}
        base_url = f"http://127.0.0.1:{service.port}"
        case.call_and_validate(base_url, headers={"x-api-key": "key"}, checks=EVERYTHING)

    every_case()
