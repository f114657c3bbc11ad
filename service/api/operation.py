"""Routes of the API: each checks the API key, takes a slot in the queue and turns exceptions into responses."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar, TypeVar, get_origin, get_type_hints
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.api.admission import Admission
from service.api.bodies import invalid_input
from service.api.context import Models, ServedModel
from service.api.request import Request
from service.api.responses import error_response
from service.api.small_operations import SmallOperation
from service.api.streaming import StreamedResponse
from service.errors import InternalError, InvalidInput, Problem, ServiceError
from service.inference.finite import NonFiniteOutput
from service.keys import Keyring
from service.limits import Limits
from service.telemetry.access_log import printable
from service.telemetry.counters import CountersByModel
from service.telemetry.prometheus import NO_MODEL
from service.telemetry.timing import Timing

logger = logging.getLogger("vae-service")

VARY = (b"vary", b"accept")
NO_STORE = (b"cache-control", b"no-store")
"""Sent wherever an API key is required, unless the response has an ETag (CacheableOperation). RFC 9111, section 3.5,
lets no shared cache store a response to a request with Authorization, but one to a request with x-api-key. Vary need
not name the two, since nothing is stored."""
MAX_PARAMETERS = 100
"""Most parameters in a query string; no route has more than about a dozen."""
MAX_NAME = 60
"""Characters of a parameter's name that an error message quotes; all known names are shorter."""
MAX_CACHED_BYTES = 256
"""Longest query string that is cached: clients could fill the memory with longer ones."""

Options = TypeVar("Options", bound=BaseModel)


@dataclass(frozen=True)
class AccessControl:
    """API keys, admission control, and the counters of refusals."""

    keyring: Keyring
    admission: Admission
    counters: CountersByModel
    limits: Limits

    def identify(self, request: Request) -> bytes:
        """Return the digest of the client's API key; raises Unauthorized where it has none that is known."""
        return self.keyring.identify(request.field(b"authorization"), request.field(b"x-api-key"))

    def check_key(self, headers: Headers) -> None:
        """Raise Unauthorized where the service has API keys and `headers` has none of them."""
        self.keyring.identify(headers.get("authorization", ""), headers.get("x-api-key", ""))


class Probe(Route):
    """A route without admission control: /livez, /readyz, /metrics."""


class Operation(Route):
    """A route of the API. All other routes, such as the page and the probes, are without keys and admission control.

    The endpoint takes the request and its options, a pydantic model of the query string.
    """

    error_response = staticmethod(error_response)
    """Create the response to an error."""
    negotiated: ClassVar[bool] = True
    """Whether responses depend on the Accept header."""
    has_model_path: bool = True
    """Whether it is found below /models/NAME too, if a model answers it."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Awaitable[Response]],
        methods: Collection[str],
        small: Callable[..., SmallOperation | None] | None = None,
        *,
        of_model: bool = True,
    ) -> None:
        """`small` returns the SmallOperation for requests with the head of one, a context and options.

        With `of_model`, a model answers it.
        """
        super().__init__(path, endpoint, methods=methods)
        self.small = small
        self.of_model = of_model
        self.has_model_path = of_model and self.has_model_path
        self.options: type[BaseModel] = list(get_type_hints(endpoint).values())[1]
        """The model of its query string."""
        is_complete = not any(field.is_required() for field in self.options.model_fields.values())
        self._defaults = self.options() if is_complete else None
        self._fields = (VARY,) if self.negotiated else ()
        self._fields_with_keys = (*self._fields, NO_STORE)
        self.app = self.asgi_app

    async def asgi_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, as an ASGI application."""
        request = Request(scope, receive)
        try:
            await (await self.respond(request))(scope, receive, send)
        finally:
            if request.reservation is not None:
                request.reservation.close()

    async def respond(self, request: Request) -> Response:
        """Return the response to a request; exceptions become error responses."""
        scope = request.scope
        timing = scope["timing"] = Timing(scope.get("span"))
        state = scope["app"].state
        access: AccessControl = state["access_control"]  # its attribute access takes five times as long
        response: Response
        try:
            key = access.identify(request) if access.keyring else b""
            access.admission.check_status()
            models: Models = state["models"]
            model = self.find_model(request, models) if self.of_model else models.no_model
            with access.admission.slot(key, model, provisional=request.awaits_body) as slot:
                if slot.provisional:
                    await request.receive_body(access.limits.body)
                    slot.confirm()
                if self.of_model:
                    scope["model_context"] = model.context or await models.load(model)
                response = await self.endpoint(request, self.read_options(scope["query_string"]))
                if timing.compute:
                    response.raw_headers.append((b"server-timing", server_timing(timing)))
                if isinstance(response, StreamedResponse):
                    slot.keep()
                    response.slot = slot
                    response.report = partial(self._translate, scope, access)
        except Exception as error:
            response = self.error_response(self._translate(scope, access, error))
        response.raw_headers += self.response_fields(access)
        return response

    def find_model(self, request: Request, models: Models) -> ServedModel:
        """Return the model that answers a request: what the first call has found, in the request's scope."""
        scope = request.scope
        if "model" not in scope:
            scope["model"] = models.find(*scope.get("meant", ()))
        model: ServedModel = scope["model"]
        return model

    def _translate(self, scope: Scope, access: AccessControl, error: Exception) -> ServiceError:
        """Count an error, log it unless the client sees it, and return it as a ServiceError."""
        counters = access.counters[scope["model"].key if "model" in scope else NO_MODEL]
        if isinstance(error, ServiceError):
            counters.count_refusal(error)
            return error
        counters.refusals["unsound_output" if isinstance(error, NonFiniteOutput) else "failure"] += 1
        name = scope["request_id"].decode()
        message = "The service failed at %s %s, %s."
        logger.error(message, scope["method"], printable(scope["raw_path"]), name, exc_info=error)
        return InternalError()

    def read_options(self, query_string: bytes) -> BaseModel:
        """Parse a query string; raises InvalidInput."""
        return self._defaults if self._defaults and not query_string else read_options(self.options, query_string)

    def response_fields(self, access: AccessControl) -> Sequence[tuple[bytes, bytes]]:
        """Return the header fields that all its responses have."""
        return self._fields_with_keys if access.keyring else self._fields


def server_timing(timing: Timing) -> bytes:
    """https://www.w3.org/TR/server-timing/, milliseconds."""
    return b"queue;dur=%.3f, compute;dur=%.3f" % (timing.queue * 1000, timing.compute * 1000)


def read_options(model: type[Options], query_string: bytes) -> Options:
    """Parse a query string as `model`; raises InvalidInput with a pointer to each wrong parameter."""
    read = _cached_options if len(query_string) <= MAX_CACHED_BYTES else _read_options
    return read(model, query_string)


def _read_options(model: type[Options], query_string: bytes) -> Options:
    if query_string.count(b"&") >= MAX_PARAMETERS:
        problem = f"The query string has more than {MAX_PARAMETERS} parameters."
        raise InvalidInput(Problem("query", "", problem))
    pairs = [
        (name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…", value)
        for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    ]
    fields: dict[str, object] = dict(pairs)
    for name in fields.keys() & _repeated(model):
        fields[name] = tuple(value for other, value in pairs if other == name)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid_input("query", error) from error


_cached_options = lru_cache(maxsize=64)(_read_options)


@lru_cache
def _repeated(model: type[BaseModel]) -> list[str]:
    """Return the parameters that are repeated for each of their values."""
    return [name for name, field in model.model_fields.items() if get_origin(field.annotation) is tuple]
