"""What the OpenAPI document says of several models."""

from __future__ import annotations

from inspect import Parameter

from fastapi import Path, Query

MODEL_PREFIX = "/models/{name}"
MODEL_PARAMETERS = (
    Parameter("name", Parameter.KEYWORD_ONLY, default=Path(description="Name or alias of the model."), annotation=str),
    Parameter(
        "version",
        Parameter.KEYWORD_ONLY,
        default=Query(None, description="Version of the model; by default the highest.", pattern=r"^\d{1,9}$"),
        annotation=str | None,
    ),
)
"""Parameters of the routes of one model."""
STATE = {
    "name": "mnist",
    "version": "2",
    "aliases": ["default", "stable"],
    "state": "ready",
    "reason": None,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "load": "start",
}
"""Example of a version of a model."""
