"""Row 25: the four modes of slowhttptest beside valid requests; and slow but steady readers, which must be served."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
from typing import NamedTuple

from tests.soak.client import HOST, write_request
from tests.soak.exchanges import JSON, Exchange, ask_alone
from tests.soak.load import answered_within
from tests.soak.plan import Findings, Plan, log_progress
from tests.soak.server import Server, serving

MODES = {
    "headers": ("-H", "-u", "/sample"),
    "body": ("-B", "-s", "8192", "-t", "POST", "-f", JSON, "-u", "/decode"),
    "range": ("-R", "-a", "10", "-b", "3000", "-t", "GET", "-u", "/sample"),
    "read": ("-X", "-w", "512", "-y", "1024", "-z", "32", "-k", "1", "-m", JSON, "-u", "/latents"),
}
INTERVAL_S = 8
"""Seconds between two parts of a head, body or response. By default the service waits for 10."""
GOOD_CALLER_EVERY_S = 0.05
GOOD_CALLER_S = 1.0
ALL_CONNECTED_AFTER_S = 10
"""New connections per second; a flood would be another attack."""
ALL_CUT_OFF = b"No open connections left"
"""What slowhttptest gives up with before its time is over."""
STEADY_READERS = 4
STEADY_BYTES, STEADY_EVERY_S = 4000, 0.1
"""40 kB/s; the service waits for clients that read at 16 kB/s or more."""
STEADY_ANSWER = write_request("GET", "/sample?n=3000", accept=JSON, connection="close")
"""A response of tens of megabytes."""
LOOK_EVERY = 20
"""Good clients between two looks at what the service holds."""


class Attack(NamedTuple):
    """The results of one mode."""

    good: int
    answered: int
    """Right responses to valid requests, in time."""
    most: int
    """Descriptors that the service held for slowhttptest and them."""
    left: int
    """Of these, those that it still held when slowhttptest's time was over."""


async def run(plan: Plan) -> Findings:
    """Run one mode after the other."""
    findings = Findings()
    if shutil.which("slowhttptest") is None:
        findings.skipped = "slowhttptest is not installed (apt-get install slowhttptest)."
        return findings
    request = write_request("POST", "/decode", b"[0.1, 0.2, 0.3]", content_type=JSON)
    async with serving(plan.core) as server:
        (exchange,) = await ask_alone(server.port, [("one latent", request)])
        before = await server.settled()
        attacks = {}
        for mode in MODES:
            attacks[mode] = attack = await _attack(server, mode, exchange, plan)
            log_progress(
                f"  {mode}: {attack.most} held, {attack.left} at last; {attack.answered} of {attack.good} good clients"
            )
        steady = [read_steadily(server.port, plan.steady_reader_s) for _ in range(STEADY_READERS)]
        cut_off = [reason for reason in await asyncio.gather(*steady) if reason]
        for reason in cut_off:
            findings.add_problem(f"A steady reader of 40 kB/s was cut off: {reason}.")
        after = await server.settled(before)
        findings.figures = {
            **{f"good clients, {mode}, %": 100 * it.answered / it.good for mode, it in attacks.items()},
            **{f"held, {mode}": it.most for mode, it in attacks.items()},
            **{f"left, {mode}, %": 100 * it.left / plan.slow_connections for mode, it in attacks.items()},
            "good clients": sum(attack.good for attack in attacks.values()),
            "answered": sum(attack.answered for attack in attacks.values()),
            "steady readers": STEADY_READERS,
            "steady readers cut off": len(cut_off),
            "slow connections": len(MODES) * plan.slow_connections,
            "MB grown": after.rss_mb - before.rss_mb,
            "descriptors grown": after.descriptors - before.descriptors,
            "tracebacks": server.tracebacks(),
        }
    return findings


async def read_steadily(port: int, seconds: float) -> str:
    """Read a response at 40 kB/s for so long, then the rest at once; returns why it is not whole, or nothing."""
    loop = asyncio.get_running_loop()
    begun, data = loop.time(), bytearray()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, (HOST, port))
            await loop.sock_sendall(connection, STEADY_ANSWER)
            while piece := await loop.sock_recv(connection, STEADY_BYTES):
                data += piece
                if (slept := begun + len(data) / STEADY_BYTES * STEADY_EVERY_S - loop.time()) > 0:
                    await asyncio.sleep(slept)
                if loop.time() - begun > seconds:
                    break
            while piece := await loop.sock_recv(connection, 2**20):
                data += piece
        except OSError as error:
            return f"{error.strerror} after {loop.time() - begun:.1f} s and {len(data)} bytes"
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    if not head.startswith(b"HTTP/1.1 200") or length is None or len(body) != int(length[1]):
        return f"{head[:12].decode()}, {len(body)} bytes after {loop.time() - begun:.1f} s"
    return ""


async def _attack(server: Server, mode: str, exchange: Exchange, plan: Plan) -> Attack:
    *flags, target = MODES[mode]
    before = server.resources().descriptors
    process = await asyncio.create_subprocess_exec(
        "slowhttptest",
        *(*flags, f"http://{HOST}:{server.port}{target}"),
        *("-c", str(plan.slow_connections), "-r", str(plan.slow_connections // ALL_CONNECTED_AFTER_S)),
        *("-l", str(plan.slow_s), "-i", str(INTERVAL_S), "-n", str(INTERVAL_S)),
        stdout=subprocess.PIPE,
    )
    ended = asyncio.create_task(process.communicate())
    good: list[asyncio.Task[bool]] = []
    held = [0]
    while not ended.done():
        good.append(asyncio.create_task(answered_within(server.port, exchange, GOOD_CALLER_S)))
        if len(good) % LOOK_EVERY == 0:
            held.append(server.resources().descriptors - before)
        await asyncio.sleep(GOOD_CALLER_EVERY_S)
    answered = sum(await asyncio.gather(*good))
    told, _ = await ended
    return Attack(len(good), answered, max(held), 0 if ALL_CUT_OFF in told else held[-1])
