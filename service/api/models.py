"""GET /models: what the service has, and what it could not load."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from service.api.bodies import JSON
from service.api.context import Models
from service.api.negotiation import negotiate
from service.api.request import Request
from service.api.responses import BytesResponse
from service.api.schemas import NoOptions


async def models(request: Request, _: NoOptions) -> Response:
    """List the models and versions: names, state, hash, and why a file that was found is not served."""
    negotiate(request.field(b"accept"), (JSON,))
    return BytesResponse(orjson.dumps({"models": model_states(request)}), JSON)


def model_states(request: Request) -> list[dict[str, Any]]:
    """Return the state of each model; the hash of one that only this worker has loaded is filled in."""
    served: Models = request.scope["app"].state["models"]
    states: list[dict[str, Any]] = orjson.loads(served.commit.states)
    contexts = {(model.name, model.version): model.context for model in served}
    for state in states:
        if context := contexts.get((state["name"], state["version"])):
            state["sha256"] = state["sha256"] or context.sha256
    return states


def failed(served: Models) -> dict[tuple[str, str], bool]:
    """Return whether the newest files of each model cannot be served."""
    states = orjson.loads(served.commit.states)
    return {(state["name"], state["version"]): state["state"] == "failed" for state in states}
