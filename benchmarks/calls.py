"""The requests that are measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

DIGIT = Path(__file__).parent.parent / "docs" / "seven.png"
LATENT = (0.1, -0.2, 0.3)


@dataclass(frozen=True)
class Call:
    """A request; a `%d` in its path stands for the number of the request."""

    method: str
    path: str
    content_type: str = ""
    body: bytes = b""


CALLS = {
    "decode": Call("POST", "/decode", "application/json", json.dumps({"z": LATENT}).encode()),
    "encode": Call("POST", "/encode", "image/png", DIGIT.read_bytes()),
    "reconstruct": Call("POST", "/reconstruct", "image/png", DIGIT.read_bytes()),
    "sample": Call("GET", "/sample?seed=%d"),
    "livez": Call("GET", "/livez"),
    "readyz": Call("GET", "/readyz"),
}
