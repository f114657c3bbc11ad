"""uvicorn, set up for this service: problem documents for its own refusals, and a stop that loses nothing."""

from __future__ import annotations

import gc
import signal
import time
from functools import partial
from socket import socket
from types import FrameType

import uvicorn
from uvicorn.lifespan.on import LifespanOn, LifespanSendMessage
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.app import StartError, create_app
from service.errors import MEDIA_TYPE, UnreadableBody, problem_document
from service.observability import log_config
from service.settings import Settings
from vae.checkpoint import Checkpoint


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose own errors are problem documents too."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, and hang up."""
        body = problem_document(UnreadableBody(msg))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()


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

    def __init__(self, settings: Settings, checkpoint: Checkpoint | None = None) -> None:
        """`checkpoint` is given where it has been loaded before."""
        config = uvicorn.Config(
            partial(create_app, settings, checkpoint),
            factory=True,
            host=settings.host,
            port=settings.port,
            http=Protocol,
            lifespan="on",
            log_config=log_config(settings.log_level, settings.log_format),
            server_header=False,
            proxy_headers=False,
            access_log=False,
        )
        super().__init__(config)
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
        await super().startup(sockets)
        gc.freeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; a second one stops at once."""
        admission = self.lifespan.state["admission"] if self.started else None
        if admission is None or admission.status == "draining":
            self.force_exit = sig == signal.SIGINT
            self.should_exit = True
        else:
            admission.status = "draining"
            self._drained_by = time.monotonic() + self._drain_time

    async def on_tick(self, counter: int) -> bool:
        """Stop when drained or out of time, or when uvicorn has a reason of its own."""
        admission = self.lifespan.state["admission"]
        left = self._drained_by - time.monotonic()
        drained = admission.status == "draining" and (not admission.in_flight or left <= 0)
        if drained:  # what remains is to write the last answers out
            self.config.timeout_graceful_shutdown = max(1, int(left))
        return await super().on_tick(counter) or drained
