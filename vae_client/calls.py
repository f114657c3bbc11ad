"""Requests, and how their responses are parsed. The clients send them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import httpx
import numpy as np
import numpy.typing as npt

from vae_client.errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APITimeoutError,
    IncompleteResponseError,
    status_error,
)
from vae_client.inputs import NPY, Body, image_body, latent_array, latent_body
from vae_client.results import Health, Images, Latents, Model, Posterior, Reconstruction, Scores

if TYPE_CHECKING:
    from vae_client.inputs import ImageInput, LatentInput

JSON = "application/json"
KEEP_ALIVE_S = 60
"""Seconds after which an idle connection is not reused; less than the 75 s after which the service closes it."""
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=KEEP_ALIVE_S)
"""Of the connections of a client that gets no `http_client`."""

T = TypeVar("T")
Fit = Literal["contain", "cover", "stretch"]


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request and the parser of its response."""

    method: str
    path: str
    request: dict[str, Any]
    """Further arguments of `httpx.Client.stream`."""
    parse_result: Callable[[httpx.Response], T]
    result_statuses: tuple[int, ...] = (200,)
    """Statuses of responses that have a result."""

    def parse(self, response: httpx.Response) -> T:
        """Return the result; raises APIStatusError or APIResponseValidationError."""
        if response.status_code not in self.result_statuses:
            raise status_error(response)
        try:
            return self.parse_result(response)
        except Exception as error:  # NumPy's header parser raises exceptions of many kinds
            if response.status_code != 200:
                raise status_error(response) from error
            media_type = response.headers.get("content-type", "no content type")
            raise APIResponseValidationError(
                f"The response to {self.path} cannot be parsed ({media_type}): {error!r}."
            ) from error


def complete_response(response: httpx.Response, content: bytes) -> httpx.Response:
    """Return a copy of a streamed `response` with its body.

    The copy's request has no headers and no body, so that an error holds neither the API key nor the images.

    Args:
        response: The response, of which the body has been read with `iter_raw`.
        content: The body, before decoding.

    Raises:
        httpx.DecodingError: The body does not have its content encoding.

    """
    request = httpx.Request(response.request.method, response.url.copy_with(userinfo=b""))
    return httpx.Response(response.status_code, headers=response.headers, content=content, request=request)


def translate_error(error: httpx.RequestError, timeout_error: APITimeoutError, *, response_started: bool) -> APIError:
    """Return our error for that of httpx, `timeout_error` if the time was over."""
    if isinstance(error, httpx.TimeoutException):
        return timeout_error
    if isinstance(error, httpx.DecodingError):
        return APIResponseValidationError(f"The response's content encoding cannot be decoded: {error}.")
    if response_started:
        return IncompleteResponseError(f"The connection broke in the middle of the response: {error}.")
    return APIConnectionError(
        f"No response from {error.request.url.copy_with(userinfo=b'')}: {str(error) or type(error).__name__}."
    )


def encode(images: ImageInput, *, fit: Fit | None, invert: bool, draw: bool, seed: int | None) -> Call[Posterior]:
    """POST /encode."""
    body = image_body(images)

    def parse(response: httpx.Response) -> Posterior:
        count = 3 if draw else 2
        stacked = _array(response)  # (count, *L) or (N, count, *L), where L is (D,), (C', h, w) or (C', t, h, w)
        is_video = stacked.ndim == 5 and stacked.shape[:2] != (body.length, count)  # a single one
        is_single = is_video or stacked.ndim in (2, 4)
        if body.single and is_single:
            stacked, is_single = stacked[np.newaxis], False
        parts = np.moveaxis(stacked, 0 if is_single else 1, 0)
        return Posterior(mean=parts[0], log_variance=parts[1], z=parts[2] if draw else None, seed=_seed(response))

    return _post("/encode", body, NPY, parse, fit=fit, invert=invert, draw=draw, seed=seed)


def decode(z: LatentInput) -> Call[Images]:
    """POST /decode."""
    return _post("/decode", latent_body(z), NPY, _images)


def reconstruct(
    images: ImageInput, *, losses: bool, fit: Fit | None, invert: bool, draw: bool, draws: int | None, seed: int | None
) -> Call[Images]:
    """POST /reconstruct; losses and the posterior need JSON, as npy holds the images only."""
    body = image_body(images)

    def parse_losses(response: httpx.Response) -> Reconstruction:
        values = {name: np.asarray(value, np.float32) for name, value in json.loads(response.content).items()}
        if body.single and values["elbo"].ndim == 0:
            values = {name: value[np.newaxis] for name, value in values.items()}
        return Reconstruction(**_known_fields(Reconstruction, values), seed=_seed(response))

    accept, parse = (JSON, parse_losses) if losses else (NPY, partial(_images, single=body.single))
    return _post("/reconstruct", body, accept, parse, fit=fit, invert=invert, draw=draw, draws=draws, seed=seed)


def score(
    images: ImageInput,
    *,
    draws: int | None,
    samples: int | None,
    seed: int | None,
    level: float | None,
    pixel_losses: bool,
    fit: Fit | None,
    invert: bool,
) -> Call[Scores]:
    """POST /score; JSON, as npy has no names."""
    body = image_body(images)

    def parse(response: httpx.Response) -> Scores:
        document = _known_fields(Scores, json.loads(response.content))
        values = {
            name: np.asarray(value, bool if name == "anomalous" else np.float32) for name, value in document.items()
        }
        if body.single and values["elbo"].ndim == 0:
            values = {name: value[np.newaxis] for name, value in values.items()}
        return Scores(**values, seed=_seed(response))

    query = {"draws": draws, "samples": samples, "seed": seed, "level": level, "map": pixel_losses}
    return _post("/score", body, JSON, parse, fit=fit, invert=invert, **query)


def sample(n: int, *, seed: int | None, temperature: float) -> Call[Images]:
    """GET /sample."""
    return _get("/sample", NPY, _images, n=n, seed=seed, temperature=temperature)


def interpolate(
    start: LatentInput, stop: LatentInput, *, steps: int, method: Literal["linear", "spherical"]
) -> Call[Images]:
    """POST /interpolate."""
    ends = {"from": latent_array(start).tolist(), "to": latent_array(stop).tolist()}
    return _post_json("/interpolate", {**ends, "steps": int(steps), "method": method})


def traverse(at: LatentInput, dimensions: Sequence[int], *, low: float, high: float, steps: int) -> Call[Images]:
    """POST /traverse."""
    ends = {"low": float(low), "high": float(high), "steps": int(steps)}
    return _post_json("/traverse", {"at": latent_array(at).tolist(), "dimensions": list(map(int, dimensions)), **ends})


def model() -> Call[Model]:
    """GET /model."""

    def parse(response: httpx.Response) -> Model:
        document = json.loads(response.content)
        shapes = {name: tuple(document[name]) for name in ("image_shape", "latent_shape")}
        return Model(**_known_fields(Model, {**document, **shapes}))

    return _get("/model", JSON, parse)


def latents() -> Call[Latents]:
    """GET /latents; JSON, as npy has no labels."""

    def parse(response: httpx.Response) -> Latents:
        document = json.loads(response.content)
        return Latents(mean=np.asarray(document["mean"], np.float32), label=np.asarray(document["label"], np.int64))

    return _get("/latents", JSON, parse)


def health() -> Call[Health]:
    """GET /readyz; a service that starts or drains responds with 503."""

    def parse(response: httpx.Response) -> Health:
        return Health(status=json.loads(response.content)["status"])

    return replace(_get("/readyz", JSON, parse), result_statuses=(200, 503))


def _post_json(path: str, document: dict[str, Any]) -> Call[Images]:
    return _post(path, Body(json.dumps(document).encode(), JSON), NPY, _images)


def _get(path: str, accept: str, parse: Callable[[httpx.Response], T], **query: Any) -> Call[T]:
    return Call("GET", path, {"params": _without_none(query), "headers": {"accept": accept}}, parse)


def _post(path: str, body: Body, accept: str, parse: Callable[[httpx.Response], T], **query: Any) -> Call[T]:
    request: dict[str, Any] = {"params": _without_none(query), "headers": {"accept": accept}}
    if body.files:
        request["files"] = body.files
    else:
        request["content"] = body.content
        request["headers"]["content-type"] = body.media_type
    return Call("POST", path, request, parse)


def _without_none(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _images(response: httpx.Response, *, single: bool = False) -> Images:
    pixels = _array(response)
    return Images(pixels=pixels[np.newaxis] if single and pixels.ndim == 3 else pixels, seed=_seed(response))


def _array(response: httpx.Response) -> npt.NDArray[np.float32]:
    return np.asarray(np.load(io.BytesIO(response.content), allow_pickle=False), np.float32)


def _seed(response: httpx.Response) -> int | None:
    seed = response.headers.get("x-seed")
    return None if seed is None else int(seed)


def _known_fields(kind: type, document: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that `kind` has; a newer service may send more."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in document.items() if name in names}
