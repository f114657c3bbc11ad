"""The OpenAPI description of ETag and If-None-Match."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

_FIELDS = {
    "ETag": {
        "description": "Weak tag of the response: that of equal requests to the same model and version of the service. "
        "Samples without a seed have none.",
        "schema": {"type": "string"},
    },
    "Cache-Control": {
        "description": "`no-cache`, or `private, no-cache` where the service has API keys: caches may store the "
        "response, and ask each time whether it is still right.",
        "schema": {"type": "string"},
    },
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "ETags of responses that the client has stored, or `*`.",
    "schema": {"type": "string"},
}
_BODY_ERRORS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


def describe(description: dict[str, Any]) -> None:
    """Change the description of the route at a path to that of the CacheableOperation there, which has no body."""
    extra, responses = description["openapi_extra"], description["responses"]
    extra.pop("requestBody", None)
    extra["parameters"] = [_IF_NONE_MATCH]
    done = responses[HTTPStatus.OK]
    done["headers"] = {**done.get("headers", {}), **_FIELDS}
    not_modified = {"description": "The client has stored the response.", "headers": _FIELDS}
    added = {**responses, HTTPStatus.NOT_MODIFIED.value: not_modified}
    description["responses"] = {status: added[status] for status in sorted(added) if status not in _BODY_ERRORS}
