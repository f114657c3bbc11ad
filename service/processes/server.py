"""uvicorn's server with this service's connections, which answers every accepted request before it stops."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
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
from service.inference.loading import StartError
from service.malloc import freeze_gc, trim_malloc
from service.models.opening import Open, open_models
from service.settings import Settings
from service.telemetry.log_config import log_config
from service.telemetry.prometheus import Metrics

logger = logging.getLogger("vae-service")

SWITCH_INTERVAL_S = 0.001
"""Seconds for which a thread may keep the GIL while others wait for it, 0.005 by default. A request takes several turns
of the event loop, each of which may wait for all threads that decode pictures or parse JSON."""
THREADS = 2
"""Threads of the event loop's default executor: for /metrics and the page's files."""
LISTENERS = 16
"""Servers for each socket: in each turn of its loop, which takes 15 ms under load, uvloop accepts one connection for
each of them."""
LAST_ACCEPT_S = 0.1
"""Seconds before the socket is closed in which the connections of its queue are accepted."""
THREADS_END_S = 0.5
"""Seconds that idle threads have to end at a stop; the results of the others are not needed."""
HEARTBEAT_S = 0.5
"""Seconds between two heartbeats."""
IDLE_HEARTBEATS = 4
"""Free memory is returned to the system after so many heartbeats without a request in flight."""


class Server(uvicorn.Server):
    """A stop: /readyz fails, new requests are refused, requests in flight are answered; exit status 0."""

    def __init__(
        self,
        settings: Settings,
        open_: Open | None = None,
        metrics: Metrics | None = None,
        beat: Callable[[], None] = lambda: None,
        *,
        has_supervisor: bool = False,
        all_stop: Callable[[], bool] = lambda: True,
    ) -> None:
        """`open_` is given if a supervisor has opened the models.

        `beat` is called regularly by the event loop. With `has_supervisor`, it is the supervisor that stops this
        process at a second signal. `all_stop` returns whether all processes that accept on the same socket are
        stopping, and not only this one.
        """
        self._open = cache(open_ or partial(open_models, settings))
        config = uvicorn.Config(
            partial(create_app, settings, self._open, metrics),
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
        self._idle_heartbeats = IDLE_HEARTBEATS
        self._has_supervisor = has_supervisor
        self._all_stop = all_stop
        self._drain_time = settings.drain_time
        self._drained_by = float("inf")

    def serve_forever(self, listener: socket) -> int:
        """Serve on `listener`, which is bound, until a signal stops it; return the exit status."""
        try:
            self.config.load()
            with self.capture_signals():
                opened = self._open()  # here: for a StartError in the lifespan, uvicorn logs a traceback
                if rollout := opened.rollout:
                    signal.signal(signal.SIGHUP, lambda *_: rollout.look_soon())
            with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
                runner.run(self.serve([listener]))
                self._end_threads()
        except StartError as error:
            logger.error("%s", error)  # noqa: TRY400 - the message suffices
            return 2
        except SystemExit:  # uvicorn could not start, and has logged why
            return 2
        return 0

    def _end_threads(self) -> None:
        """End the process at once, with status 0, if threads are still computing.

        Otherwise the event loop's close and the interpreter's exit would wait for them, however long they take.
        """
        self._executor.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + THREADS_END_S
        for thread in threading.enumerate():
            if thread.daemon or thread is threading.current_thread():
                continue
            thread.join(max(0, deadline - time.monotonic()))
            if thread.is_alive():
                logging.shutdown()
                os._exit(0)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start to serve."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(THREADS, "default")
        self._loop.set_default_executor(self._executor)
        await super().startup(sockets)
        await self._add_listeners()
        self._heartbeat()
        freeze_gc()

    async def _add_listeners(self) -> None:
        """Accept LISTENERS connections in one turn of the event loop: hundreds of new clients would wait otherwise."""
        connection = partial(Connection, self.config, self.server_state, self.lifespan.state)
        for server in list(self.servers):
            for listener in server.sockets:
                for _ in range(LISTENERS - 1):
                    duplicate = fromfd(listener.fileno(), listener.family, listener.type)
                    self.servers.append(
                        await self._loop.create_server(connection, sock=duplicate, backlog=self.config.backlog)
                    )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; a second one stops at once.

        A supervised worker may receive two signals for one stop: its supervisor's, and the one that the supervisor
        received, if it was sent to all processes.
        """
        admission = self.lifespan.state["admission"] if self.started else None
        if admission is None:
            self._drained_by = time.monotonic()
            self.should_exit = True
        elif admission.status != "draining":
            admission.status = "draining"
            self._drained_by = time.monotonic() + self._drain_time
            self._loop.call_soon_threadsafe(self._shut_down_connections)  # a signal may interrupt any code
        elif not self._has_supervisor:
            self._drained_by = time.monotonic()
            self._loop.call_soon_threadsafe(self._abort_connections)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop: when drained, after the drain time, or for one of uvicorn's reasons."""
        admission = self.lifespan.state["admission"]
        is_over = not admission.in_flight or time.monotonic() >= self._drained_by
        drained = admission.status == "draining" and is_over
        if admission.status == "draining" and not drained:
            self._shut_down_connections()
        return await super().on_tick(counter) or drained

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Answer the requests of all connected clients, accept no others, and stop."""
        self._shut_down_connections()
        await self._accept_last_connections()
        left = max(0, self._drained_by - time.monotonic())  # for the last responses
        self._loop.call_later(left, self._abort_connections)
        self.config.timeout_graceful_shutdown = ceil(left) + 1
        await super().shutdown(sockets)

    async def _accept_last_connections(self) -> None:
        """Accept the connections in the socket's queue: closing the socket would reset them.

        All processes that accept on the socket share the queue. Its limit is set to 0 only if all of them stop; if only
        this one stops, the others accept what is in the queue.
        """
        if not self._all_stop():  # a signal to all processes may reach this one before its supervisor
            await asyncio.sleep(LAST_ACCEPT_S)
        if self._all_stop():
            for server in self.servers:
                for listener in server.sockets:
                    with fromfd(listener.fileno(), listener.family, listener.type) as duplicate:
                        duplicate.listen(0)
            await asyncio.sleep(LAST_ACCEPT_S)

    def _abort_connections(self) -> None:
        """Close all connections at once, and cancel what is computed for them."""
        for connection in list(self.server_state.connections):
            cast("Connection", connection).transport.abort()

    def _shut_down_connections(self) -> None:
        """Close each connection after the response to its next request."""
        for connection in self.server_state.connections:
            connection.shutdown()

    def _heartbeat(self) -> None:
        self._beat()
        is_idle = not self.lifespan.state["admission"].in_flight
        self._idle_heartbeats = self._idle_heartbeats + 1 if is_idle else 0
        if self._idle_heartbeats == IDLE_HEARTBEATS:
            self._loop.run_in_executor(None, trim_malloc)
        self._loop.call_later(HEARTBEAT_S, self._heartbeat)
