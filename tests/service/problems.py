"""What all error responses have in common."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import httpx


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of `response`, whose status must be `status`, checked for its form (RFC 9457)."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == "about:blank"
    assert document["title"] == HTTPStatus(status).phrase
    assert document["status"] == status
    assert document["detail"].endswith(".")
    assert document.keys() - {"errors"} == {"type", "title", "status", "detail"}
    for error in document.get("errors", ()):
        assert error.keys() == {"in", "pointer", "detail"}
        assert error["in"] in ("body", "query")
        assert error["pointer"] == "" or error["pointer"].startswith("/")
        assert error["detail"] in document["detail"]
    return document


def bad_fields(response: httpx.Response) -> list[tuple[str, str]]:
    """Location and pointer of each field that a 422 names."""
    return [(error["in"], error["pointer"]) for error in problem(response, 422)["errors"]]
