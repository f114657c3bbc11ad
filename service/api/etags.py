"""ETag and If-None-Match (RFC 9110, sections 8.8.3 and 13.1.2): 304 for a response that the client still has.

The tag is known before the response is: it is a hash of all that the response depends on. It is weak, because equal
requests get equal responses, but for rounding, which may differ between machines and batches.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256

from pydantic import BaseModel
from starlette.responses import Response

from service.api.context import model_context
from service.api.operation import NO_STORE, AccessControl, Operation
from service.api.request import Request
from service.api.schemas import SampleOptions
from service.errors import ServiceError
from service.version import VERSION

REVALIDATED = (b"cache-control", b"no-cache")
"""Caches may store a response, and ask each time whether it is still right: another model may be served at its URL."""
REVALIDATED_PRIVATELY = (b"cache-control", b"private, no-cache")
"""The same for the client's own cache alone, where an API key is required. Vary need not name its header fields, since
the service checks the key each time."""


def model_digest(model_json: bytes, latents_json: bytes | None) -> bytes:
    """Hash what responses depend on beside the request: the model, its latents, and the version of the service."""
    return _digest(VERSION.encode(), model_json, latents_json or b"")


class CacheableOperation(Operation):
    """An operation of GET, whose responses have an ETag. A match is answered without a slot in the queue.

    Errors have none, nor have samples without a seed, which differ each time.
    """

    def __init__(self, path: str, endpoint: Callable[..., Awaitable[Response]], check: Callable[..., str]) -> None:
        """`check` takes a request and its options. It raises their errors and returns the response's media type."""
        super().__init__(path, endpoint, ["GET"])
        self._check = check

    async def respond(self, request: Request) -> Response:
        """As Operation, or return 304."""
        access: AccessControl = request.scope["app"].state["access_control"]
        tag = self._expect_tag(request, access) if b"if-none-match" in request.fields else None
        if tag and _matches(request.field(b"if-none-match"), tag):
            response = Response(status_code=304)
            response.raw_headers += self._fields
        else:
            response = await super().respond(request)
            if response.status_code != 200:
                return response
            tag = self._tag(request, self.read_options(request.scope["query_string"]), response.media_type or "")
            if tag is None:
                return response
            if access.keyring:
                response.raw_headers.remove(NO_STORE)
        caching = REVALIDATED_PRIVATELY if access.keyring else REVALIDATED
        response.raw_headers += (caching, (b"etag", b"W/" + tag))
        return response

    def _expect_tag(self, request: Request, access: AccessControl) -> bytes | None:
        """Return the tag that the response will have, or None for an error, which Operation then reports."""
        if access.admission.status != "ok":  # starting, without a model, or draining
            return None
        try:
            if access.keyring:
                access.identify(request)
            model = self.find_model(request, request.scope["app"].state["models"])
            if model.context is None:
                return None
            request.scope["model_context"] = model.context
            options = self.read_options(request.scope["query_string"])
            return self._tag(request, options, self._check(request, options))
        except ServiceError:
            return None

    def _tag(self, request: Request, options: BaseModel, media_type: str) -> bytes | None:
        """Return the opaque tag of the response of the chosen model, or None where it has none."""
        if isinstance(options, SampleOptions) and options.seed is None:
            return None
        parts = (self.path, media_type, options.model_dump_json())
        return b'"%b"' % _digest(model_context(request).digest, *(part.encode() for part in parts))


def _matches(if_none_match: str, tag: bytes) -> bool:
    """Compare weakly: without W/. A hash in quotes occurs in a list of tags only as one of them."""
    return if_none_match.strip() == "*" or tag.decode() in if_none_match


def _digest(*parts: bytes) -> bytes:
    return sha256(b"\n".join(parts)).hexdigest()[:32].encode()
