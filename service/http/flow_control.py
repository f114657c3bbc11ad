"""Flow control of a connection: pauses of reading and writing, and a minimum rate for clients that read a response."""

from __future__ import annotations

import asyncio
import socket
import sys

from service.memory_budget import UNCOUNTED, MemoryBudget

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ

MIN_READ_RATE = 2**14
"""Minimum average rate, in bytes/s, at which a client must acknowledge a response."""
MAX_CREDIT = 4
"""Largest credit that a client earns by reading faster, in multiples of its timeout. A client's kernel acknowledges in
steps of up to 400 kB, which at the minimum rate are 25 s apart; the default timeout is 10 s."""
TCP_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
"""Linux only: how long sent data may remain unacknowledged (RFC 5482)."""


class FlowControl:
    """Pauses one connection's reading and writing, and charges what is buffered meanwhile to the memory budget."""

    def __init__(self, transport: asyncio.Transport, memory: MemoryBudget, timeout: float) -> None:
        """`timeout`: seconds in which a client must begin to read a response that does not fit into the buffers."""
        self.is_reading = True
        self.writable = asyncio.Event()
        self.writable.set()
        self._transport = transport
        self._memory = memory
        self._timeout = timeout
        self._received = 0  # bytes charged for what waits to be parsed or taken
        self._unsent = 0  # bytes charged for a response that waits to be read
        self._unacknowledged = 0  # bytes, when last looked at
        self._deadline = 0.0  # for the reading of a response, while writing is paused
        if TCP_USER_TIMEOUT is not None:  # a response that fits into the kernel's buffer never pauses writing
            milliseconds = int(1000 * MAX_CREDIT * timeout)
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, milliseconds)

    def pause_reading(self, received: int) -> None:
        """Stop reading and charge `received` buffered bytes; raises TooLarge or Unavailable, and has stopped then."""
        self.is_reading = False
        self._transport.pause_reading()
        if received > UNCOUNTED:
            self._memory.reserve(received)
            self._received = received

    def resume_reading(self) -> None:
        """Read again."""
        self.is_reading = True
        self._memory.adjust(-self._received)
        self._received = 0
        self._transport.resume_reading()

    def pause_writing(self, now: float, *, is_charged: bool) -> None:
        """Wait for the client to read; what is unsent is charged if `is_charged`."""
        self.writable.clear()
        if is_charged:
            self._unsent = self._transport.get_write_buffer_size()
            self._memory.adjust(self._unsent)
        self._unacknowledged = self._count_unacknowledged()
        self._deadline = now + self._timeout

    def resume_writing(self) -> None:
        """Write again: the client has read most of what was unsent."""
        self.writable.set()
        self._memory.adjust(-self._unsent)
        self._unsent = 0

    def is_overdue(self, now: float) -> bool:
        """Return whether the client reads its response more slowly than MIN_READ_RATE; call it regularly."""
        if self.writable.is_set():
            return False
        unacknowledged = self._count_unacknowledged()
        earned = (self._unacknowledged - unacknowledged) / MIN_READ_RATE
        self._unacknowledged = unacknowledged
        self._deadline = min(self._deadline + earned, now + MAX_CREDIT * self._timeout)
        return now > self._deadline

    def release(self) -> None:
        """Release all memory that is charged: the connection has ended."""
        self._memory.adjust(-self._received - self._unsent)
        self._received = self._unsent = 0

    def _count_unacknowledged(self) -> int:
        """Bytes that were written and that the client has not acknowledged."""
        count = self._transport.get_write_buffer_size()
        if sys.platform == "linux":  # tcp(7), where it is called SIOCOUTQ
            in_kernel = ioctl(self._transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
            count += int.from_bytes(in_kernel, sys.byteorder)
        return count
