"""Triton's model repository extension: the index. No request loads or unloads a model.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

from __future__ import annotations

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import Response

from service.api.bodies import JSON, invalid_input
from service.api.models import model_states
from service.api.offloading import JSON_BYTE_S
from service.api.operation import AccessControl
from service.api.request import Request
from service.api.responses import BytesResponse
from service.api.schemas import NoOptions
from service.formats.json_reader import read_json

STATES = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE"}
"""States of /models → those of the extension, for what is not served."""


class IndexRequest(BaseModel):
    """The JSON of a request, which may be left out."""

    model_config = ConfigDict(extra="ignore")

    ready: bool = False
    """Leave out models that are not ready."""


async def repository_index(request: Request, _: NoOptions) -> Response:
    """List the models and versions, and why one is not ready."""
    access: AccessControl = request.scope["app"].state["access_control"]
    body = await request.read(access.limits.body)
    document = await request.run(len(body) * JSON_BYTE_S, read_json, body or b"{}", request.reserve)
    try:
        asked = IndexRequest.model_validate(document)
    except ValidationError as error:
        raise invalid_input("body", error) from error
    index = [
        {
            "name": state["name"],
            "version": state["version"],
            "state": "READY" if state["sha256"] else STATES[state["state"]],
            "reason": state["reason"] or "",
        }
        for state in model_states(request)
    ]
    return BytesResponse(orjson.dumps([each for each in index if each["state"] == "READY" or not asked.ready]), JSON)
