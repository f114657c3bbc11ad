"""The page at / and what belongs to it under /web: read, hashed and compressed once.

The files of `web/` lie at /web/HASH/…, one hash over all of them: a browser may keep them for ever, and the modules'
relative imports are what they are in the folder. plotly.js comes from the package of plotly, where that is installed;
nothing of it is imported.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from functools import cache, lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.bodies import JSON
from service.api.negotiation import accepts_gzip
from service.api.operation import AccessControl
from service.api.responses import Answer

WEB = Path(__file__).parents[1] / "web"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
BINS = 48
"""Of a histogram of one latent dimension."""

POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        # plotly.js needs no 'unsafe-eval' for scatter3d and scatter (its scattergl would), but makes two style
        # elements: the empty one that it fills by insertRule, and that of its maps, which other versions of it may
        # have with other text: that one is not needed here, and the browser's console says that it was refused.
        "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' "
        "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "object-src 'none'",
    )
)
SAFETY = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
KEPT = {"cache-control": "public, max-age=31536000, immutable", "vary": "accept-encoding", **SAFETY}
ASKED_AGAIN = {"cache-control": "no-cache", "vary": "accept-encoding", **SAFETY}

Handler = Callable[[Request], Awaitable[Response]]


class Page(NamedTuple):
    """Its handlers, `home` for / and `files` for the paths below /web, and the path of its icon."""

    home: Handler
    files: list[Route]
    icon: str


@cache
def read_page() -> Page:
    """The page as it lies in its folder."""
    files = {path.name: path.read_bytes() for path in sorted(WEB.iterdir()) if path.suffix in MEDIA_TYPES}
    folder = _hash(b"".join(name.encode() + body for name, body in files.items()))
    html = files.pop("index.html").replace(b'"web/', f'"web/{folder}/'.encode())
    routes = [Route(f"/{folder}/{name}", _file(body, Path(name).suffix)) for name, body in files.items()]
    plotly = _plotly()
    if plotly:
        path = f"{_hash(plotly.read_bytes())}/plotly.js"
        html = html.replace(b'name="plotly" content=""', f'name="plotly" content="web/{path}"'.encode())
        routes.append(Route(f"/{path}", _plotly_file(plotly)))
    routes.append(Route("/spread.json", spread))
    return Page(_index(html), routes, f"web/{folder}/icon.svg")


async def spread(request: Request) -> Response:
    """How the test set's latents lie along each dimension, for those who may see them; null where there are none.

    `low`, `high`, `mean` and `deviation` are [D], `histogram` is [D][BINS], counts between low and high. `start` is
    [D], the latent that the page shows first, to the sliders' step of 0.01.
    """
    gate: AccessControl = request.app.state.gate
    gate.keyring.identify(request.headers.get("authorization", ""), request.headers.get("x-api-key", ""))
    body = await asyncio.to_thread(_spread, request.app.state.loaded.latents_json)
    return Answer(body, JSON, {"cache-control": "no-store" if gate.keyring else "no-cache", **SAFETY})


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
    packed = gzip.compress(html, mtime=0)
    headers = {**ASKED_AGAIN, "content-security-policy": POLICY, "etag": f'W/"{_hash(html)}"'}

    async def index(request: Request) -> Response:
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return _pick(request, html, packed, ".html", headers)

    return index


def _file(body: bytes, suffix: str) -> Handler:
    packed = gzip.compress(body, mtime=0)

    async def file(request: Request) -> Response:
        return _pick(request, body, packed, suffix, KEPT)

    return file


def _plotly() -> Path | None:
    found = find_spec("plotly")
    folders = found.submodule_search_locations if found else None
    path = Path(folders[0]) / "package_data" / "plotly.min.js" if folders else None
    return path if path and path.is_file() else None


def _plotly_file(path: Path) -> Handler:
    @cache
    def pack() -> tuple[bytes, bytes]:
        body = path.read_bytes()
        return body, gzip.compress(body, 6, mtime=0)

    async def plotly(request: Request) -> Response:
        return _pick(request, *await asyncio.to_thread(pack), ".js", KEPT)  # a quarter of a second, once

    return plotly


def _pick(request: Request, body: bytes, packed: bytes, suffix: str, headers: dict[str, str]) -> Response:
    media_type = MEDIA_TYPES[suffix]
    if not accepts_gzip(", ".join(request.headers.getlist("accept-encoding"))):
        return Response(body, media_type=media_type, headers=headers)
    return Response(packed, media_type=media_type, headers={**headers, "content-encoding": "gzip"})


def _hash(body: bytes) -> str:
    return sha256(body).hexdigest()[:16]
