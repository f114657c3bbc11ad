"""Requests that come by a Poisson process, whether or not those before them were answered.

wrk waits for an answer before it asks again: what queues is bounded by its connections, and nobody else's does so. This
client needs a core of its own, which it never lets rest, and sends some ten thousand requests a second.
"""

from __future__ import annotations

import re
import select
import socket
import time
from dataclasses import dataclass, field
from random import Random

from benchmarks.calls import Call

CONNECTIONS = 512
"""Held open; a request that finds all of them busy waits here, and is late."""
ASK_EVERY_S = 0.05
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
IN_FLIGHT = re.compile(rb"^vae_requests_in_flight ([\d.e+]+)$", re.MULTILINE)


@dataclass
class Poisson:
    """What became of the requests of a load."""

    rate: float
    """Requests a second that were sent."""
    seconds: list[float] = field(default_factory=list)
    """From when each should have been sent until its answer was there."""
    failed: int = 0
    """Answers of another status than 200."""
    in_flight: list[float] = field(default_factory=list)
    """What /metrics said, if it was asked."""


def send(port: int, call: Call, rate: float, seconds: float, watch: bool = False, seed: int = 0) -> Poisson:
    """So many requests a second; with `watch` /metrics is asked for what is in flight, over and over."""
    request = write(call)
    scrape = write(Call("GET", "/metrics"))
    random = Random(seed)
    poll = select.epoll()
    free: list[socket.socket] = []
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        poll.register(connection, select.EPOLLIN)
        free.append(connection)
    by_number = {connection.fileno(): connection for connection in free}
    scraper = free.pop(0)
    due_by_number: dict[int, float] = {}
    buffers: dict[int, bytes] = {}
    result = Poisson(0)
    start = due = ask = time.perf_counter()
    end = start + seconds
    while True:
        now = time.perf_counter()
        while due <= now and due < end and free:
            connection = free.pop()
            connection.send(request)
            due_by_number[connection.fileno()] = due
            due += random.expovariate(rate)
        if watch and ask <= now < end:
            scraper.send(scrape)
            ask = float("inf")
        for number, _ in poll.poll(0):
            buffer = buffers.pop(number, b"") + by_number[number].recv(65536)
            if not is_whole(buffer):
                buffers[number] = buffer
            elif number == scraper.fileno():
                result.in_flight += map(float, IN_FLIGHT.findall(buffer))
                ask = time.perf_counter() + ASK_EVERY_S * 2 * random.random()
            else:
                result.seconds.append(time.perf_counter() - due_by_number.pop(number))
                result.failed += not buffer.startswith(b"HTTP/1.1 200 ")
                free.append(by_number[number])
        if now > end and not due_by_number:
            break
    for connection in by_number.values():
        connection.close()
    result.rate = len(result.seconds) / seconds
    return result


def write(call: Call) -> bytes:
    """A request as it goes over the wire."""
    fields = [f"{call.method} {call.path} HTTP/1.1", "Host: 127.0.0.1"]
    if call.body:
        fields += [f"Content-Type: {call.content_type}", f"Content-Length: {len(call.body)}"]
    return "\r\n".join([*fields, "", ""]).encode() + call.body


def is_whole(answer: bytes) -> bool:
    """Is all of it there? RuntimeError where the connection was closed."""
    if not answer:
        raise RuntimeError("The service has closed a connection.")
    head, end, body = answer.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    return bool(end) and length is not None and len(body) >= int(length[1])
