"""uvicorn, set up for this service: no caller keeps it waiting, and a stop loses nothing."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from socket import fromfd, socket
from types import FrameType
from typing import cast

import uvicorn
from uvicorn.lifespan.on import LifespanOn, LifespanSendMessage

from service.app import Served, StartError, create_app
from service.connection import Connection
from service.metrics import Metrics
from service.observability import log_config
from service.settings import Settings

YOUNG_OBJECTS = 10_000
"""Between two collections; by Python's 700 a full micro-batch of requests would be one."""
THREADS = 4
"""Beside the event loop, for what takes long: pictures to decode, bodies to unpack, answers to write. Each may take as
much memory as a whole picture does, so that Python's own number, up to 32, is too many."""
LAST_CALLERS_S = 0.1
"""In which those are let in who have connected before the end."""
BEAT_EVERY_S = 0.5


class Lifespan(LifespanOn):
    """Tells why the service cannot start in one sentence, where that is the operator's to mend."""

    async def send(self, message: LifespanSendMessage) -> None:
        """Pass the application's message on, without the stack above a StartError."""
        if message["type"] == "lifespan.startup.failed":
            _, is_start_error, sentence = message.get("message", "").rpartition(f"{StartError.__name__}: ")
            if is_start_error:
                message["message"] = sentence.strip()
        await super().send(message)


class Server(uvicorn.Server):
    """At a stop: not ready, no new work, what was let in is answered, exit status 0."""

    def __init__(
        self,
        settings: Settings,
        loaded: Served | None = None,
        metrics: Metrics | None = None,
        beat: Callable[[], None] = lambda: None,
        *,
        has_supervisor: bool = False,
    ) -> None:
        """`loaded` is given where the checkpoint has been loaded before.

        `beat` is called as long as the event loop turns. A supervisor sees to it that a second signal stops at once.
        """
        config = uvicorn.Config(
            partial(create_app, settings, loaded, metrics),
            factory=True,
            host=settings.host,
            port=settings.port,
            http=Connection,
            lifespan="on",
            log_config=log_config(settings.log_level, settings.log_format),
            server_header=False,
            proxy_headers=False,
            access_log=False,
        )
        super().__init__(config)
        self._beat = beat
        self._has_supervisor = has_supervisor
        self._drain_time = settings.drain_time
        self._drained_by = float("inf")

    def serve_forever(self, sockets: list[socket] | None = None) -> int:
        """Serve on `sockets`, or on the configured address, until told to stop; returns the exit status."""
        self.config.load()
        self.config.lifespan_class = Lifespan
        try:
            self.run(sockets)
        except SystemExit:  # uvicorn could not start, and has said why
            return 2
        return 0

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start, and take what was loaded out of the garbage collector's sight.

        It would walk half a million of torch's objects in 100 ms at each full collection, and in a forked worker copy
        the pages that it shares.
        """
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(THREADS, "beside"))
        await super().startup(sockets)
        self._keep_beating()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; a second one stops at once.

        A supervised worker may be told of one stop twice: by its supervisor, and by who told that one.
        """
        admission = self.lifespan.state["admission"] if self.started else None
        if admission is None:
            self.should_exit = True
        elif admission.status == "draining":
            self.should_exit = self.force_exit = not self._has_supervisor
        else:
            admission.status = "draining"
            self._drained_by = time.monotonic() + self._drain_time
            self._loop.call_soon_threadsafe(self._tell_connections)  # not here, in the middle of anything

    async def on_tick(self, counter: int) -> bool:
        """Stop when drained or out of time, or when uvicorn has a reason of its own."""
        admission = self.lifespan.state["admission"]
        left = self._drained_by - time.monotonic()
        drained = admission.status == "draining" and (not admission.in_flight or left <= 0)
        if drained:  # what remains is to write the last answers out
            self.config.timeout_graceful_shutdown = max(1, int(left))
        elif admission.status == "draining":
            self._tell_connections()
        return await super().on_tick(counter) or drained

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Answer those who have come, let nobody else in, and end."""
        self._tell_connections()
        for server in self.servers:
            for listener in server.sockets:
                with fromfd(listener.fileno(), listener.family, listener.type) as same:
                    same.listen(0)  # closed with callers in its queue it would hang up on them
        await asyncio.sleep(LAST_CALLERS_S)
        await super().shutdown(sockets)

    async def _wait_tasks_to_complete(self) -> None:
        """Those whose time is over, by the clock or by a second signal, are cut off."""
        try:
            await super()._wait_tasks_to_complete()
        finally:
            for connection in list(self.server_state.connections):
                cast("Connection", connection).transport.abort()
            self.force_exit = False  # the application's lifespan is to end all the same

    def _tell_connections(self) -> None:
        """The answer to the next request is the last one."""
        for connection in self.server_state.connections:
            connection.shutdown()

    def _keep_beating(self) -> None:
        self._beat()
        self._loop.call_later(BEAT_EVERY_S, self._keep_beating)
