"""Bodies and routes that several tests use."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import httpx

from service.app import INFERENCE, OPERATIONS, QUERIES

PNG, JSON, NPY, FORM = "image/png", "application/json", "application/x-npy", "multipart/form-data"
Z = [0.3, 1.6, -2.4]
IMAGE_ROUTES = ["/encode", "/reconstruct", "/score"]
POST_ROUTES = [*IMAGE_ROUTES, "/decode", "/interpolate", "/traverse"]
ROUTES = [*((("POST", path)) for path in POST_ROUTES), *(("GET", path) for path in ("/sample", "/latents", "/model"))]
OPEN = {
    *("/", "/web", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/static-offline-docs"),
    *("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"),
}
"""The routes that need no API key."""
LOCKED = {"/metrics": "GET", **{path: method for path, (method, _) in {**OPERATIONS, **INFERENCE}.items()}}
EVERY_LOCKED = [
    *((method, path.format(name="mnist", version="1")) for path, method in LOCKED.items()),
    *(("GET", path) for path in QUERIES),
]
EVERY_POST = [path for method, path in EVERY_LOCKED if method == "POST"]

BODY_LIMIT, BATCH_LIMIT, PIXEL_LIMIT = 20_000, 4, 100 * 100


def post(client: httpx.Client, path: str, body: Any, content_type: str, **headers: str) -> httpx.Response:
    return client.post(path, content=body, headers={"content-type": content_type, **headers})


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header announces so many pixels, with hardly any data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def npy_with_header(header: str, data: bytes) -> bytes:
    line = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + data


class Trap:
    """An object that writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "sprung")


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n" for head, body in parts) + end


IMAGE_PART = 'content-disposition: form-data; name="image"; filename="x"'
