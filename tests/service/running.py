"""The service on a real socket, in a thread of the test's process, so that tests can inspect and replace its parts."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette

from service.api.admission import Admission
from service.api.context import ModelContext
from service.app import create_app
from service.http.connection import Connection
from service.inference.backend import ByteArray, FloatArray
from service.inference.engine import Engine
from service.settings import Settings
from service.telemetry.timing import Timing


@dataclass(frozen=True)
class Running:
    """A service that runs in a thread."""

    app: Starlette
    client: httpx.Client
    port: int
    state: dict[str, Any] = field(default_factory=dict)
    """State that connections share."""

    @property
    def admission(self) -> Admission:
        admission: Admission = self.app.state.access_control.admission
        return admission

    @property
    def context(self) -> Any:
        """The default model's ModelContext."""
        return self.app.state.models.find().context

    def swap_context(self, context: ModelContext) -> None:
        """Answer by `context` instead of the default model's."""
        self.app.state.models.find().context = context

    def swap_engine(self, make: Callable[[Engine], Engine]) -> None:
        """Put `make(engine)` in the place of the engine."""
        before = self.context.engine
        engine = make(before)
        engine.__dict__ = {**before.__dict__, **engine.__dict__}
        self.swap_context(replace(self.context, engine=engine))
        if fast_path := self.state["fast_path"]:  # its plans have the engine's batchers
            fast_path._plans.clear()
            fast_path._plan = lambda _: None

    def wait_for(self, in_flight: int) -> None:
        """Wait until so many requests are in flight."""
        wait_until(lambda: self.admission.in_flight == in_flight)

    def exchange(self, request: bytes) -> bytes:
        """Send raw bytes; return all bytes until the service closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def running(**settings: Any) -> Iterator[Running]:
    """Run the service with `settings` on a free port."""
    application = create_app(Settings(**{"log_level": "warning"} | settings))
    config = uvicorn.Config(application, http=Connection, lifespan="on", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            with suppress(SystemExit):  # uvicorn could not start, and has logged why
                server.run([listener])

        thread = Thread(target=serve)
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive())
            if not server.started:
                raise RuntimeError("The service did not start; its log says why.")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
                yield Running(application.api, client, port, server.lifespan.state)
        finally:
            server.should_exit = True
            thread.join()


def wait_until(happened: Callable[[], bool], limit: float = 20) -> None:
    give_up = time.monotonic() + limit
    while not happened():
        if time.monotonic() > give_up:
            raise TimeoutError(f"Nothing within {limit:g} s.")
        time.sleep(0.002)


class Stalled(Engine):
    """Decodes nothing before `released` is set."""

    def __init__(self, engine: Engine) -> None:
        self.config = engine.config
        self.released = Event()
        self._engine = engine

    async def decode_scanlines(self, z: FloatArray, *, timing: Timing | None = None) -> ByteArray:
        await asyncio.to_thread(self.released.wait)
        return await self._engine.decode_scanlines(z, timing=timing)


class Broken(Engine):
    """Fails with a message that clients must not see."""

    def __init__(self, engine: Engine) -> None:
        self.config = engine.config

    async def decode_scanlines(self, z: FloatArray, *, timing: Timing | None = None) -> ByteArray:
        raise RuntimeError("the secret of /inside/engine.py")
