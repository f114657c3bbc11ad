"""What stands around every operation of the API: the caller's key, a place in the queue, a deadline, its errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints
from urllib.parse import parse_qsl

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.admission import Admission
from service.answers import refuse
from service.bodies import invalid
from service.call import Call
from service.errors import InternalError, ServiceError
from service.keys import Keyring

logger = logging.getLogger("vae-service")

Options = TypeVar("Options", bound=BaseModel)


@dataclass(frozen=True)
class Gate:
    """Who may come in, and how many."""

    keyring: Keyring
    admission: Admission


class Operation(APIRoute):
    """A route of the API. A route that is not one is open to all and never shed: the page, the docs, the probes.

    FastAPI documents it; it answers by itself. The endpoint takes the call and its options, a pydantic model of the
    query.
    """

    def __init__(self, path: str, endpoint: Callable[..., Awaitable[Response]], **described: Any) -> None:
        super().__init__(path, endpoint, **described)
        self._options: type[BaseModel] = list(get_type_hints(endpoint).values())[1]
        self._defaults = self._options()
        self.app = self.answer

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as an ASGI application."""
        await (await self.respond(scope, receive))(scope, receive, send)

    async def respond(self, scope: Scope, receive: Receive) -> Response:
        """The answer to one request."""
        gate: Gate = scope["app"].state.gate
        call = Call(scope, receive)
        try:
            with gate.admission.place(gate.keyring.identify(call.field(b"authorization"), call.field(b"x-api-key"))):
                query = scope["query_string"]
                options = read_options(self._options, query) if query else self._defaults
                response: Response = await self.endpoint(call, options)
        except ServiceError as error:
            return refuse(error)
        except Exception:
            logger.exception("The service failed at %s %s.", scope["method"], scope["path"])
            return refuse(InternalError())
        return response


def read_options(model: type[Options], query_string: bytes) -> Options:
    """A query string → `model`; raises InvalidInput with a pointer for each bad parameter."""
    try:
        return model.model_validate(dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)))
    except ValidationError as error:
        raise invalid("query", error) from error
