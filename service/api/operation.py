"""What stands around every operation of the API: the caller's key, a place in the queue, a deadline, its errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import getdoc
from typing import Any, ClassVar, TypeVar, get_origin, get_type_hints
from urllib.parse import parse_qsl

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import request_response
from starlette.types import Receive, Scope, Send

from service.api.admission import Admission
from service.api.bodies import invalid
from service.api.request import Request
from service.api.responses import refuse
from service.errors import InternalError, InvalidInput, Problem, ServiceError
from service.inference.engine import NonFiniteOutput
from service.keys import Keyring
from service.telemetry.access_log import printable
from service.telemetry.counters import Counters
from service.telemetry.timing import Timing

logger = logging.getLogger("vae-service")

VARY = (b"vary", b"accept")
NO_STORE = (b"cache-control", b"no-store")
"""On all answers of what a key is asked for. RFC 9111, section 3.5, keeps shared caches from storing the answer to a
request with Authorization, but not with x-api-key. As nothing is stored, Vary need not name the two."""
MAX_PARAMETERS = 100
"""In a query string; the most that any route has a use for is about a dozen."""
MAX_NAME = 60
"""Characters of a parameter's name that an error quotes; all known names are shorter."""
CACHED = 256
"""Bytes of a query string that is cached; longer ones would let callers fill the memory."""

Options = TypeVar("Options", bound=BaseModel)


@dataclass(frozen=True)
class AccessControl:
    """Who may come in, and how many; and who was turned away."""

    keyring: Keyring
    admission: Admission
    counters: Counters


class Probe(APIRoute):
    """A route that is never shed: /livez, /readyz, /metrics.

    FastAPI documents it; Starlette calls it, with the request. FastAPI would parse the query string, however long it
    is, which no probe has a use for.
    """

    def __init__(
        self, path: str, endpoint: Callable[[StarletteRequest], Awaitable[Response]], **described: Any
    ) -> None:
        super().__init__(path, endpoint, **described)
        self.app = request_response(endpoint)


class Operation(APIRoute):
    """A route of the API. A route that is not one is open to all and never shed: the page, the docs, the probes.

    FastAPI documents it; it answers by itself. The endpoint takes the call and its options, a pydantic model of the
    query.
    """

    refuse = staticmethod(refuse)
    """An error as an answer."""
    negotiated: ClassVar[bool] = True
    """Whether its answers depend on the Accept header."""

    def __init__(self, path: str, endpoint: Callable[..., Awaitable[Response]], **described: Any) -> None:
        described["name"] = described["name"] or endpoint.__name__
        described["description"] = described["description"] or getdoc(endpoint)
        super().__init__(path, partial(endpoint, None), **described)  # FastAPI knows no request but Starlette's
        self.endpoint = endpoint
        self._options: type[BaseModel] = list(get_type_hints(endpoint).values())[1]
        self._defaults = self._options()
        self._fields = (VARY,) if self.negotiated else ()
        self._locked_fields = (*self._fields, NO_STORE)
        self.app = self.answer

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as an ASGI application."""
        request = Request(scope, receive)
        try:
            await (await self.respond(request))(scope, receive, send)
        finally:
            if request.reservation is not None:
                request.reservation.close()

    async def respond(self, request: Request) -> Response:
        """The answer to one request."""
        scope = request.scope
        timing = scope["timing"] = Timing(scope.get("span"))
        state = scope["app"].state
        gate: AccessControl = state["gate"]  # by the attribute it takes five times as long
        keyring = gate.keyring
        locked = bool(keyring)
        response: Response
        try:
            key = keyring.identify(request.field(b"authorization"), request.field(b"x-api-key")) if locked else b""
            with gate.admission.slot(key, provisional=request.awaits_body) as slot:
                if slot.provisional:
                    await request.receive_body(state["loaded"].limits.body)
                    slot.take()
                query = scope["query_string"]
                options = read_options(self._options, query) if query else self._defaults
                response = await self.endpoint(request, options)
                if timing.compute:
                    response.raw_headers.append((b"server-timing", _server_timing(timing)))
        except ServiceError as error:
            gate.counters.refuse(error)
            response = self.refuse(error)
        except Exception as error:
            gate.counters.refusals["unsound_output" if isinstance(error, NonFiniteOutput) else "failure"] += 1
            name = scope["request_id"].decode()
            logger.exception("The service failed at %s %s, %s.", scope["method"], printable(scope["raw_path"]), name)
            response = self.refuse(InternalError())
        response.raw_headers += self._locked_fields if locked else self._fields
        return response


def _server_timing(timing: Timing) -> bytes:
    """https://www.w3.org/TR/server-timing/, milliseconds."""
    return b"queue;dur=%.3f, compute;dur=%.3f" % (timing.queue * 1000, timing.compute * 1000)


def read_options(model: type[Options], query_string: bytes) -> Options:
    """A query string → `model`; raises InvalidInput with a pointer for each bad parameter."""
    read = _cached_options if len(query_string) <= CACHED else _read_options
    return read(model, query_string)


def _read_options(model: type[Options], query_string: bytes) -> Options:
    if query_string.count(b"&") >= MAX_PARAMETERS:
        problem = f"The query string has more than the {MAX_PARAMETERS} parameters that are taken."
        raise InvalidInput(Problem("query", "", problem))
    pairs = [
        (name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…", value)
        for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    ]
    fields: dict[str, object] = dict(pairs)
    for name in _repeated(model):
        fields[name] = tuple(value for other, value in pairs if other == name)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid("query", error) from error


_cached_options = lru_cache(maxsize=64)(_read_options)


@lru_cache
def _repeated(model: type[BaseModel]) -> list[str]:
    """Parameters that come once for each of their values."""
    return [name for name, field in model.model_fields.items() if get_origin(field.annotation) is tuple]
