"""Examples of responses that are texts of several parts, for the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from service.api.bodies import NDJSON
from service.api.events import EVENT_STREAM


def text_contents(media_types: Sequence[str], example: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of those of `media_types` that are texts of several parts."""
    texts = {NDJSON: _line(example), EVENT_STREAM: _events(example)} if example else {}
    return {text: {"schema": {"type": "string"}, "example": texts[text]} for text in media_types if text in texts}


def _line(example: dict[str, Any]) -> str:
    """Return the first item of `example` as a line of NDJSON, without fields that describe all items."""
    is_batch = "z" in example or "label" in example
    fields = {name: value[0] if is_batch else value for name, value in example.items() if name != "seed"}
    return json.dumps(fields) + "\n"


def _events(example: dict[str, Any]) -> str:
    """Return the events of a computation of two pieces whose result is `example`."""
    progress = ("progress", {"done": 1, "total": 2}), ("progress", {"done": 2, "total": 2})
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in (*progress, ("result", example)))
