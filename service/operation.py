"""What stands around every operation of the API: the caller's key, a place in the queue, a deadline."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from service.admission import Admission
from service.keys import Keyring


@dataclass(frozen=True)
class Gate:
    """Who may come in, and how many."""

    keyring: Keyring
    admission: Admission


class Operation(APIRoute):
    """A route of the API. A route that is not one is open to all and never shed: the page, the docs, the probes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, behind the gate."""
        handle = super().get_route_handler()

        async def admitted(request: Request) -> Response:
            gate: Gate = request.app.state.gate
            async with gate.admission.place(gate.keyring.identify(request.headers)):
                return await handle(request)

        return admitted
