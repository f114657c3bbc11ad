"""What stands around every operation of the API: the caller's key, a place in the queue, a deadline, its errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar, get_type_hints
from urllib.parse import parse_qsl

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.admission import Admission
from service.answers import refuse
from service.bodies import invalid
from service.call import Call
from service.errors import InternalError, ServiceError
from service.keys import Keyring

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
        self.read_options = partial(read_options, next(islice(get_type_hints(endpoint).values(), 1, None)))
        self.app = self.answer

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as an ASGI application."""
        gate: Gate = scope["app"].state.gate
        call = Call(scope, receive)
        try:
            with gate.admission.place(gate.keyring.identify(call.field(b"authorization"), call.field(b"x-api-key"))):
                response = await self.endpoint(call, self.read_options(scope["query_string"]))
        except ServiceError as error:
            response = refuse(error)
        except Exception:
            await refuse(InternalError())(scope, receive, send)
            raise
        await response(scope, receive, send)


class Shortcut:
    """Leads straight to an operation: it needs none of FastAPI's router and middleware, which the other routes get."""

    def __init__(self, app: FastAPI) -> None:
        self._way_round = app.build_middleware_stack()
        self._operations: dict[tuple[str | None, str | None], ASGIApp] = {
            (method, route.path): route.answer
            for route in app.routes
            if isinstance(route, Operation)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        answer = self._operations.get((scope.get("method"), scope.get("path")), self._way_round)
        await answer(scope, receive, send)


def read_options(model: type[Options], query_string: bytes) -> Options:
    """A query string → `model`; raises InvalidInput with a pointer for each bad parameter."""
    try:
        return model.model_validate(dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)))
    except ValidationError as error:
        raise invalid("query", error) from error
