"""uvicorn, set up for this service: no caller keeps it waiting, and a stop loses nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from math import ceil
from socket import fromfd, socket
from types import FrameType
from typing import cast

import uvicorn

from service.app import create_app
from service.http.connection import Connection
from service.inference.loading import Load, StartError, load_checkpoint
from service.malloc import freeze_gc, trim_malloc
from service.settings import Settings
from service.telemetry.log_config import log_config
from service.telemetry.prometheus import Metrics

logger = logging.getLogger("vae-service")

THREADS = 2
"""Of the event loop's default executor: for /metrics and the page's files."""
LISTENERS = 16
"""Of each socket: uvloop lets in one caller by each in a turn of its loop, which takes 15 ms under load."""
LAST_CALLERS_S = 0.1
"""In which those are let in who have connected before the end."""
THREADS_END_S = 0.5
"""Seconds that idle threads have to end at a stop; nobody waits for the results of the others."""
BEAT_EVERY_S = 0.5
IDLE_BEATS = 4
"""After so many without a request that was in flight, the memory that the last ones took is given back."""


class Server(uvicorn.Server):
    """At a stop: not ready, no new work, what was let in is answered, exit status 0."""

    def __init__(
        self,
        settings: Settings,
        load: Load | None = None,
        metrics: Metrics | None = None,
        beat: Callable[[], None] = lambda: None,
        *,
        has_supervisor: bool = False,
        all_stop: Callable[[], bool] = lambda: True,
    ) -> None:
        """`load` is given where the checkpoint has been loaded before, or is being.

        `beat` is called as long as the event loop turns. A supervisor sees to it that a second signal stops at once.
        `all_stop` tells whether all processes that accept on the same socket stop, and not this one alone.
        """
        self._load = cache(load or partial(load_checkpoint, settings))
        config = uvicorn.Config(
            partial(create_app, settings, self._load, metrics),
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
        self._idle_beats = IDLE_BEATS
        self._has_supervisor = has_supervisor
        self._all_stop = all_stop
        self._drain_time = settings.drain_time
        self._drained_by = float("inf")

    def serve_forever(self, listener: socket) -> int:
        """Serve on `listener`, which is bound, until told to stop; returns the exit status."""
        try:
            self.config.load()
            with self.capture_signals():
                self._load()  # here, because in the lifespan uvicorn would log lines around a StartError
            with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
                runner.run(self.serve([listener]))
                self._end_threads()
        except StartError as error:
            logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
            return 2
        except SystemExit:  # uvicorn could not start, and has said why
            return 2
        return 0

    def _end_threads(self) -> None:
        """End the process at once, with status 0, if threads still compute.

        The event loop, when it is closed, and the interpreter would wait for them, however long they take.
        """
        self._executor.shutdown(wait=False, cancel_futures=True)
        give_up = time.monotonic() + THREADS_END_S
        for thread in threading.enumerate():
            if thread.daemon or thread is threading.current_thread():
                continue
            thread.join(max(0, give_up - time.monotonic()))
            if thread.is_alive():
                logging.shutdown()
                os._exit(0)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start."""
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(THREADS, "beside")
        self._loop.set_default_executor(self._executor)
        await super().startup(sockets)
        await self._listen_more_often()
        self._keep_beating()
        freeze_gc()

    async def _listen_more_often(self) -> None:
        """So that who is new does not wait, in the hundreds, for those who are in."""
        connection = partial(Connection, self.config, self.server_state, self.lifespan.state)
        for server in list(self.servers):
            for listener in server.sockets:
                for _ in range(LISTENERS - 1):
                    same = fromfd(listener.fileno(), listener.family, listener.type)
                    self.servers.append(
                        await self._loop.create_server(connection, sock=same, backlog=self.config.backlog)
                    )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; a second one stops at once.

        A supervised worker may be told of one stop twice: by its supervisor, and by who told that one.
        """
        admission = self.lifespan.state["admission"] if self.started else None
        if admission is None:
            self._drained_by = time.monotonic()
            self.should_exit = True
        elif admission.status != "draining":
            admission.status = "draining"
            self._drained_by = time.monotonic() + self._drain_time
            self._loop.call_soon_threadsafe(self._tell_connections)  # not here, in the middle of anything
        elif not self._has_supervisor:
            self._drained_by = time.monotonic()
            self._loop.call_soon_threadsafe(self._cut_off)

    async def on_tick(self, counter: int) -> bool:
        """Stop when drained or out of time, or when uvicorn has a reason of its own."""
        admission = self.lifespan.state["admission"]
        is_over = not admission.in_flight or time.monotonic() >= self._drained_by
        drained = admission.status == "draining" and is_over
        if admission.status == "draining" and not drained:
            self._tell_connections()
        return await super().on_tick(counter) or drained

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Answer those who have come, let nobody else in, and end."""
        self._tell_connections()
        await self._accept_last_callers()
        left = max(0, self._drained_by - time.monotonic())  # to write the last answers out
        self._loop.call_later(left, self._cut_off)
        self.config.timeout_graceful_shutdown = ceil(left) + 1
        await super().shutdown(sockets)

    async def _accept_last_callers(self) -> None:
        """Accept the connections in the socket's queue: closing the socket would reset them.

        The queue belongs to all processes that accept on the socket. Its limit is set to 0 only where all of them stop;
        where this one stops alone, the others accept what is in the queue.
        """
        if not self._all_stop():  # a signal sent to all processes may reach this one before the supervisor
            await asyncio.sleep(LAST_CALLERS_S)
        if self._all_stop():
            for server in self.servers:
                for listener in server.sockets:
                    with fromfd(listener.fileno(), listener.family, listener.type) as same:
                        same.listen(0)
            await asyncio.sleep(LAST_CALLERS_S)

    def _cut_off(self) -> None:
        """Nobody is waited for any longer; what is computed for them no more."""
        for connection in list(self.server_state.connections):
            cast("Connection", connection).transport.abort()

    def _tell_connections(self) -> None:
        """The answer to the next request is the last one."""
        for connection in self.server_state.connections:
            connection.shutdown()

    def _keep_beating(self) -> None:
        self._beat()
        self._idle_beats = 0 if self.lifespan.state["admission"].in_flight else self._idle_beats + 1
        if self._idle_beats == IDLE_BEATS:
            self._loop.run_in_executor(None, trim_malloc)
        self._loop.call_later(BEAT_EVERY_S, self._keep_beating)
