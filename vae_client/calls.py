"""Requests and the reading of their answers. Nothing is sent from here: that is for the clients."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import httpx
import numpy as np
import numpy.typing as npt

from vae_client.answers import Images, Model, Posterior, Reconstruction
from vae_client.errors import AnswerCut, ConnectionFailed, TimedOut, UnexpectedAnswer, VAEError, refusal
from vae_client.inputs import NPY, Body, image_body, latent_array, latent_body

if TYPE_CHECKING:
    from vae_client.inputs import ImageInput, LatentInput

JSON = "application/json"
IDLE_S = 60
"""After which a connection is not used again; the service closes an idle one after 75 s."""
PORTS = range(1, 2**16)
USER_INFORMATION = re.compile(r"//[^/]*@")
"""User name and password of a URL, left out of error messages."""

T = TypeVar("T")
Fit = Literal["contain", "cover", "stretch"]


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: httpx.Headers
    body: bytes


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, as httpx takes it, and how its answer is read."""

    method: str
    path: str
    request: dict[str, Any]
    read_answer: Callable[[Reply], T]

    def read(self, reply: Reply) -> T:
        """The answer; raises Refused or UnexpectedAnswer."""
        if reply.status != 200:
            raise refusal(reply.status, reply.headers, reply.body)
        try:
            return self.read_answer(reply)
        except Exception as error:  # NumPy's header parser raises whatever it trips over
            sent = reply.headers.get("content-type", "no content type")
            raise UnexpectedAnswer(f"The answer to {self.path} cannot be read ({sent}): {error!r}.") from error


def connection(url: str, key: str | None) -> dict[str, Any]:
    """What httpx's clients are made with; each keeps its connections. Raises ValueError for a bad `url` or `key`."""
    return {
        "base_url": _base_url(url),
        "headers": {"authorization": f"Bearer {_check_key(key)}"} if key else {},
        "timeout": None,  # the course of each call says
        "limits": httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=IDLE_S),
    }


def _base_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if (
        parsed.scheme not in ("http", "https")
        or not parsed.host
        or " " in url
        or not (parsed.port is None or parsed.port in PORTS)
    ):
        shown = USER_INFORMATION.sub("//", url)
        raise ValueError(
            f"{shown!r} is not the URL of a service; one like http://127.0.0.1:8000 is wanted, with a port from 1 to "
            "65535 or none."
        )
    return parsed


def _check_key(key: str) -> str:
    """`key` without white space around it, such as the newline at the end of a file; raises ValueError."""
    key = key.strip()
    if not (key and key.isascii() and key.isprintable()):
        raise ValueError("key has other characters than printable ASCII, or none; a header field cannot hold it.")
    return key


def failure(error: httpx.RequestError, timed_out: TimedOut, *, answered: bool) -> VAEError:
    """What httpx raised, before an answer or in the middle of it, as one of ours."""
    if isinstance(error, httpx.TimeoutException):
        return timed_out
    if isinstance(error, httpx.DecodingError):
        return UnexpectedAnswer(f"The answer's content encoding cannot be read: {error}.")
    if answered:
        return AnswerCut(f"The connection broke in the middle of an answer: {error}.")
    return ConnectionFailed(
        f"No answer from {error.request.url.copy_with(userinfo=b'')}: {str(error) or type(error).__name__}."
    )


def encode(images: ImageInput, *, fit: Fit | None, invert: bool, draw: bool, seed: int | None) -> Call[Posterior]:
    """POST /encode."""
    body = image_body(images)

    def read(reply: Reply) -> Posterior:
        stacked = _array(reply)  # (2 or 3, *L) or (N, 2 or 3, *L), where L is (D,) or (C', h, w)
        if body.lone and stacked.ndim in (2, 4):
            stacked = stacked[np.newaxis]
        parts = np.moveaxis(stacked, 0 if stacked.ndim in (2, 4) else 1, 0)
        return Posterior(mean=parts[0], log_variance=parts[1], z=parts[2] if draw else None, seed=_seed(reply))

    return _post("/encode", body, NPY, read, fit=fit, invert=invert, draw=draw, seed=seed)


def decode(z: LatentInput) -> Call[Images]:
    """POST /decode."""
    return _post("/decode", latent_body(z), NPY, _images)


def reconstruct(
    images: ImageInput, *, losses: bool, fit: Fit | None, invert: bool, draw: bool, draws: int | None, seed: int | None
) -> Call[Images]:
    """POST /reconstruct; losses, and the posterior, are no part of npy: they come as JSON."""
    body = image_body(images)

    def read_losses(reply: Reply) -> Reconstruction:
        values = {name: np.asarray(value, np.float32) for name, value in json.loads(reply.body).items()}
        if body.lone and values["elbo"].ndim == 0:
            values = {name: value[np.newaxis] for name, value in values.items()}
        return Reconstruction(**_known(Reconstruction, values), seed=_seed(reply))

    accept, reader = (JSON, read_losses) if losses else (NPY, partial(_images, lone=body.lone))
    return _post("/reconstruct", body, accept, reader, fit=fit, invert=invert, draw=draw, draws=draws, seed=seed)


def sample(n: int, *, seed: int | None, temperature: float) -> Call[Images]:
    """GET /sample."""
    return _get("/sample", NPY, _images, n=n, seed=seed, temperature=temperature)


def interpolate(
    start: LatentInput, stop: LatentInput, *, steps: int, method: Literal["linear", "spherical"]
) -> Call[Images]:
    """POST /interpolate."""
    ends = {"from": latent_array(start).tolist(), "to": latent_array(stop).tolist()}
    return _walk("/interpolate", {**ends, "steps": int(steps), "method": method})


def traverse(at: LatentInput, dimensions: Sequence[int], *, low: float, high: float, steps: int) -> Call[Images]:
    """POST /traverse."""
    ends = {"low": float(low), "high": float(high), "steps": int(steps)}
    return _walk("/traverse", {"at": latent_array(at).tolist(), "dimensions": list(map(int, dimensions)), **ends})


def model() -> Call[Model]:
    """GET /model."""

    def read(reply: Reply) -> Model:
        card = json.loads(reply.body)
        shapes = {name: tuple(card[name]) for name in ("image_shape", "latent_shape")}
        return Model(**_known(Model, {**card, **shapes}))

    return _get("/model", JSON, read)


def _walk(path: str, document: dict[str, Any]) -> Call[Images]:
    return _post(path, Body(json.dumps(document).encode(), JSON), NPY, _images)


def _get(path: str, accept: str, read: Callable[[Reply], T], **query: Any) -> Call[T]:
    return Call("GET", path, {"params": _given(query), "headers": {"accept": accept}}, read)


def _post(path: str, body: Body, accept: str, read: Callable[[Reply], T], **query: Any) -> Call[T]:
    request: dict[str, Any] = {"params": _given(query), "headers": {"accept": accept}}
    if body.files:
        request["files"] = body.files
    else:
        request["content"] = body.content
        request["headers"]["content-type"] = body.media_type
    return Call("POST", path, request, read)


def _given(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _images(reply: Reply, *, lone: bool = False) -> Images:
    pixels = _array(reply)
    return Images(pixels=pixels[np.newaxis] if lone and pixels.ndim == 3 else pixels, seed=_seed(reply))


def _array(reply: Reply) -> npt.NDArray[np.float32]:
    return np.asarray(np.load(io.BytesIO(reply.body), allow_pickle=False), np.float32)


def _seed(reply: Reply) -> int | None:
    seed = reply.headers.get("x-seed")
    return None if seed is None else int(seed)


def _known(kind: type, document: dict[str, Any]) -> dict[str, Any]:
    """The fields that this version knows of; a later service may tell more."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in document.items() if name in names}
