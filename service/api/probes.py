"""Probes: routes for orchestrators and Prometheus, which are never refused for load."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.api.bodies import JSON
from service.api.operation import AccessControl
from service.api.responses import BytesResponse
from service.telemetry.prometheus import MEDIA_TYPE, Metrics


async def metrics(request: Request) -> Response:
    """Return the metrics of all workers since the start of the service, in Prometheus' text format."""
    values: Metrics = request.app.state.metrics
    if request.app.state.metrics_need_key:
        access: AccessControl = request.app.state.access_control
        access.check_key(request.headers)
        if access.keyring:
            return BytesResponse(await values.exposition(), MEDIA_TYPE, {"cache-control": "no-store"})
    return BytesResponse(await values.exposition(), MEDIA_TYPE)


async def livez(_: Request) -> Response:
    """Return 200 as long as the process can respond."""
    return BytesResponse(orjson.dumps({"status": "ok"}), JSON)


async def readyz(request: Request) -> Response:
    """Return 200 while the service takes requests, and 503 while it starts or drains."""
    access: AccessControl = request.app.state.access_control
    status = access.admission.status
    return BytesResponse(orjson.dumps({"status": status}), JSON, status=200 if status == "ok" else 503)
