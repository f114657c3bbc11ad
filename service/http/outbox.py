"""What goes out to all callers, and when: what is written for many in one turn of the event loop, in one go."""

from __future__ import annotations

import asyncio

BURST = 16
"""Answers that are not held for any more."""


class Outbox:
    """Sends the small answers that are made in one turn of the event loop one right after the other.

    A caller on another core, or a proxy of many, falls asleep between two answers that go out as they are made, and
    waking it takes the service several microseconds, for every answer. A burst wakes it once. Nothing is held while one
    request alone is being answered.

    What else is sent to a caller, and its end, come after what is held.
    """

    def __init__(self) -> None:
        self.answering = 0
        """Requests that are being answered."""
        self._held: list[tuple[asyncio.Transport, bytes]] = []

    def post(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Send an answer, or the first of it, with those that others get in this turn."""
        self._held.append((transport, answer))
        if self.answering < 2 or len(self._held) == BURST:
            self.flush()
        elif len(self._held) == 1:
            asyncio.get_running_loop().call_soon(self.flush)

    def write(self, transport: asyncio.Transport, *pieces: bytes) -> None:
        """Send pieces at once."""
        self.flush()
        transport.writelines(pieces)

    def end(self, transport: asyncio.Transport) -> None:
        """Send nothing more."""
        self.flush()
        transport.write_eof()

    def close(self, transport: asyncio.Transport) -> None:
        """Hang up, once all is sent."""
        self.flush()
        transport.close()

    def flush(self) -> None:
        """Send what is held."""
        held, self._held = self._held, []
        for transport, answer in held:
            if not transport.is_closing():
                try:  # noqa: SIM105 - `suppress` takes a microsecond for each answer
                    transport.write(answer)
                except RuntimeError:  # its connection has been refused meanwhile; the others get theirs
                    pass
