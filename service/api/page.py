"""The page at / and its files under /web: read and hashed once, and compressed once when they are asked for.

The files of `web/` have URLs with one hash of them all, /web/HASH/…: browsers may cache them for ever, and the modules'
relative imports work as in the folder. Starlette's StaticFiles neither sends precompressed files nor puts hashes into
URLs and index.html.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.bodies import JSON
from service.api.context import Models
from service.api.negotiation import accepts_gzip
from service.api.operation import AccessControl
from service.api.responses import BytesResponse

WEB = Path(__file__).parents[1] / "web"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
BINS = 48
"""Bins in the histogram of one latent dimension."""

POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "object-src 'none'",
    )
)
SECURITY_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
IMMUTABLE = {"cache-control": "public, max-age=31536000, immutable", "vary": "accept-encoding", **SECURITY_HEADERS}
REVALIDATED = {"cache-control": "no-cache", "vary": "accept-encoding", **SECURITY_HEADERS}

Handler = Callable[[Request], Awaitable[Response]]


class Page(NamedTuple):
    """Handler of /, routes of the files below /web, and path of the icon."""

    home: Handler
    files: list[Route]
    icon: str


@cache
def read_page() -> Page:
    """Read the page from its folder."""
    files = {path.name: path.read_bytes() for path in sorted(WEB.iterdir()) if path.suffix in MEDIA_TYPES}
    folder = _hash(b"".join(name.encode() + body for name, body in files.items()))
    html = files.pop("index.html").replace(b'"web/', f'"web/{folder}/'.encode())
    routes = [Route(f"/{folder}/{name}", _file(body, Path(name).suffix)) for name, body in files.items()]
    routes.append(Route("/spread.json", spread))
    return Page(_index(html), routes, f"web/{folder}/icon.svg")


async def spread(request: Request) -> Response:
    """Return statistics of the test set's latents as JSON, or null where the checkpoint has none.

    `low`, `high`, `mean` and `deviation` are [D], and `histogram` is [D][BINS], counts between low and high. `start` is
    [D], the latent that the page shows first, rounded to the step of the sliders, 0.01.
    """
    access: AccessControl = request.app.state.access_control
    access.check_key(request.headers)
    models: Models = request.app.state.models
    context = await models.load(models.find())
    body = await asyncio.to_thread(_spread, context.latents_json)
    return BytesResponse(
        body, JSON, {"cache-control": "no-store" if access.keyring else "no-cache", **SECURITY_HEADERS}
    )


@lru_cache(maxsize=1)
def _spread(latents_json: bytes | None) -> bytes:
    document = orjson.loads(latents_json or b'{"mean":[]}')
    latents = np.array(document["mean"], np.float64)  # (M, D)
    if not len(latents):
        return b"null"
    low, high = latents.min(0), latents.max(0)
    columns = zip(latents.T, low.tolist(), high.tolist(), strict=True)
    return orjson.dumps(
        {
            "low": low,
            "high": high,
            "mean": latents.mean(0),
            "deviation": latents.std(0),
            "histogram": [np.histogram(column, BINS, (start, stop))[0] for column, start, stop in columns],
            "start": _central_latent(latents, np.array(document["label"])).round(2),
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _central_latent(latents: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The member (D,) nearest to its class's mean, of the most compact class: its image is clear.

    Classes of less than half the average size are left out: one of a single member would be the most compact.
    """
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(index, column) / counts for column in latents.T], axis=1)  # (classes, D)
    squares = np.square(latents - means[index]).sum(1)  # (M,)
    variances = np.where(counts >= counts.mean() / 2, np.bincount(index, squares) / counts, np.inf)
    nearest = np.where(index == variances.argmin(), squares, np.inf).argmin()
    central: NDArray[np.float64] = latents[nearest]
    return central


def _index(html: bytes) -> Handler:
    headers = {**REVALIDATED, "content-security-policy": POLICY, "etag": f'W/"{_hash(html)}"'}

    async def index(request: Request) -> Response:
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return _encoded(request, html, ".html", headers)

    return index


def _file(body: bytes, suffix: str) -> Handler:
    async def file(request: Request) -> Response:
        return _encoded(request, body, suffix, IMMUTABLE)

    return file


def _encoded(request: Request, body: bytes, suffix: str, headers: dict[str, str]) -> Response:
    media_type = MEDIA_TYPES[suffix]
    if not accepts_gzip(", ".join(request.headers.getlist("accept-encoding"))):
        return Response(body, media_type=media_type, headers=headers)
    return Response(_pack(body), media_type=media_type, headers={**headers, "content-encoding": "gzip"})


@cache
def _pack(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def _hash(body: bytes) -> str:
    return sha256(body).hexdigest()[:16]
