"""One process: how it starts, serves and stops."""

import asyncio
import gc
import json
import os
import pickle
import re
import signal
import socket
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from uvicorn.lifespan.on import LifespanOn

from service.processes.server import LISTENERS, Server
from service.settings import read_settings
from tests.live import START_LIMIT_S, LiveServer, free_port, live_server, start
from tests.service.problems import problem
from tests.service.running import wait_until
from vae.checkpoint import save
from vae.config import VAEConfig
from vae.model import VAE

pytestmark = pytest.mark.slow

TAKEN = (
    r"The service cannot listen on 127\.0\.0\.1:\d+: Address already in use\. Choose another --host or --port, or stop "
    r"what listens there\."
)
SAMPLE = "/sample?n=16&seed=7"
SLOW = VAEConfig("conv")
"""Ten thousand images take many seconds."""
DECODE = "POST /decode HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"

SLEEPING = """
import logging, time
from unittest import mock
from service.__main__ import main

def sleep(*_):
    logging.getLogger("vae-service").warning("The function sleeps.")
    time.sleep(30)

with mock.patch("{}", sleep):
    main()
"""
"""The service, with one of its functions replaced by a long computation."""

STOPPED_WHILE_IT_LOADS = """
import signal
from unittest import mock
from service import __main__
from service.processes import server

open_models = server.open_models

def load_and_be_stopped(settings):
    signal.raise_signal(signal.SIGINT)
    return open_models(settings)

with mock.patch.object(server, "open_models", load_and_be_stopped):
    __main__.main()
"""


@contextmanager
def request_in_flight(server: LiveServer, headers: str = "") -> Iterator[Callable[[], bytes]]:
    """Send a request except its last byte; the function yielded sends that and returns the response."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(f"{DECODE}{headers}content-length: 9\r\n\r\n[1, 2, 3".encode())
        time.sleep(0.3)  # until it is in flight, which the service does not show

        def finish() -> bytes:
            connection.sendall(b"]")
            return b"".join(iter(lambda: connection.recv(65536), b""))

        yield finish


@asynccontextmanager
async def served() -> AsyncIterator[Server]:
    """A server in this process."""
    server = Server(read_settings(["--port", str(free_port()), "--log-level", "error"]))
    server.config.load()
    server.lifespan = LifespanOn(server.config)
    await server.startup()
    try:
        yield server
    finally:
        server.handle_exit(signal.SIGTERM, None)
        await server.shutdown()


def test_nothing_is_written_to_the_home_directory(tmp_path: Path) -> None:
    with live_server(environment={"HOME": str(tmp_path)}) as server:
        assert server.get(SAMPLE).status_code == 200
    assert not list(tmp_path.iterdir())  # ONNX Runtime's telemetry would write a database there


def test_many_connections_are_accepted_within_one_turn_of_the_loop() -> None:
    """Under load a turn takes long; one accept per turn would delay the last of them by as many turns."""

    async def turns_until_all_are_in(clients: int) -> int:
        async with served() as server:
            with ExitStack() as sockets:
                for _ in range(clients):
                    sockets.enter_context(socket.create_connection(("127.0.0.1", server.config.port)))
                turns = 0
                while len(server.server_state.connections) < clients:
                    await asyncio.sleep(0)
                    turns += 1
        return turns

    assert uvloop.run(turns_until_all_are_in(5 * LISTENERS)) < 15


GONE = {
    "after a response": b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "between two requests": b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n",
    "within a head": b"GET /li",
    "within a body": f"{DECODE}content-length: 9\r\n\r\n[0".encode(),
    "while it is computed": b"GET /sample?n=4000 HTTP/1.1\r\nhost: x\r\n\r\n",
    "refused": b"nonsense\r\n\r\n",
}


@pytest.mark.parametrize("sent", GONE.values(), ids=list(GONE))
def test_a_closed_connection_leaves_nothing_to_the_collector(sent: bytes) -> None:
    """The collector runs seldom, and would find tens of thousands of connections in one pause."""

    async def come_and_go() -> None:
        async with served() as server:
            connections = server.server_state.connections
            gc.collect()
            gc.disable()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", server.config.port)
                await asyncio.sleep(0.1)
                (connection,) = map(weakref.ref, connections)
                writer.write(sent)
                await asyncio.sleep(0.1)
                writer.close()
                await writer.wait_closed()
                await asyncio.sleep(0.5)
                assert connection() is None
            finally:
                gc.enable()

    uvloop.run(come_and_go())


def test_free_memory_is_returned_once_after_a_load(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[float] = []
    monkeypatch.setattr("service.processes.server.HEARTBEAT_S", 0.02)
    monkeypatch.setattr("service.processes.server.trim_malloc", lambda: given_back.append(time.monotonic()))

    async def load_and_rest() -> float:
        async with served() as server:
            await asyncio.sleep(0.3)
            assert not given_back
            reader, writer = await asyncio.open_connection("127.0.0.1", server.config.port)
            writer.write(b"GET /sample?n=4000&seed=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
            answered = time.monotonic()
            await asyncio.sleep(0.5)
        return answered

    answered = uvloop.run(load_and_rest())
    assert len(given_back) == 1
    assert given_back[0] > answered


def test_a_stop_loses_nothing(client: httpx.Client) -> None:
    """And a seed gives the same images as in any other process."""
    with live_server() as server:
        assert server.get(SAMPLE).content == client.get(SAMPLE).content
        assert server.get("/sample?n=16").content != server.get("/sample?n=16").content
        assert "server" not in server.get("/livez").headers
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(b"\0garbage\r\n\r\n")
            assert b"content-type: application/problem+json" in connection.recv(65536)
        with request_in_flight(server) as finish:
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.get("/readyz").status_code == 503)
            assert server.get("/readyz").json() == {"status": "draining"}
            refused = server.get(SAMPLE)
            assert "draining" in problem(refused, 503)["detail"]
            assert refused.headers["retry-after"] == "1"
            assert server.get("/livez").status_code == 200
            assert server.process.poll() is None
            response = finish()
        assert response.startswith(b"HTTP/1.1 200 ")
        assert b"\x89PNG" in response
        assert server.process.wait(10) == 0
        assert "Traceback" not in server.log


def test_connected_clients_are_answered_at_a_stop() -> None:
    """On an idle connection and on one that was just made; both are closed afterwards."""
    probe = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n"
    with live_server() as server, ExitStack() as stack:
        kept, fresh = (
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10)) for _ in range(2)
        )
        kept.sendall(probe)
        assert b"connection: close" not in kept.recv(65536)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        for connection in (kept, fresh):
            connection.sendall(probe)
            response = b"".join(iter(partial(connection.recv, 65536), b""))
            assert response.startswith(b"HTTP/1.1 503")
            assert b"connection: close" in response
        assert server.process.wait(10) == 0


def test_secrets_are_not_logged_and_a_stop_waits_at_most_the_drain_time() -> None:
    flags = ("--log-level", "debug", "--log-format", "json", "--drain-time", "0.5")
    with live_server(*flags, environment={"VAE_API_KEYS": "hush-hush,whisper"}) as server:
        assert server.get("/model", authorization="Bearer hush-hush").status_code == 200
        assert server.get("/model", **{"x-api-key": "whisper"}).status_code == 200
        assert server.get("/model", **{"x-api-key": "nearly-hush"}).status_code == 401
        wait_until(lambda: '"GET /model 401"' in server.log)
        with request_in_flight(server, "x-api-key: whisper\r\n"):
            before = time.monotonic()
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(10) == 0
            assert 0.4 < time.monotonic() - before < 5
        assert "hush" not in server.log
        assert "whisper" not in server.log
        assert all(json.loads(line)["message"] for line in server.log.splitlines())


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_of_either_kind_stops_at_once(workers: str, second: signal.Signals) -> None:
    with live_server("--workers", workers) as server, request_in_flight(server):
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert server.process.poll() is None
        server.process.send_signal(second)
        assert server.process.wait(3) == 0
        assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("workers", "function", "second"),
    [
        ("1", "service.inference.engine.Engine._decode_scanlines", signal.SIGTERM),
        ("1", "service.api.responses.write_png", signal.SIGINT),
        ("1", "service.api.responses.write_png", None),
        ("2", "service.inference.engine.Engine._decode_scanlines", None),
    ],
    ids=["engine, SIGTERM", "executor, SIGINT", "executor, drain time", "engine of a worker, drain time"],
)
def test_a_computation_does_not_delay_an_immediate_stop(
    workers: str, function: str, second: signal.Signals | None
) -> None:
    """At a second signal or after the drain time; the log is complete."""
    flags = ("--workers", workers, "--compute", "thread", "--drain-time", "30" if second else "1")
    with (
        live_server(*flags, program=("-c", SLEEPING.format(function))) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        wait_until(lambda: server.log.count("Application startup complete") == int(workers))
        client.sendall(b"GET /sample?n=200 HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_until(lambda: "The function sleeps." in server.log)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert server.process.poll() is None
        if second:
            server.process.send_signal(second)
        assert server.process.wait(4) == 0
        assert client.recv(1) == b""
        assert "GET /sample 499, " in server.log
        assert server.log.count("Finished server process") == int(workers)
        assert "Traceback" not in server.log


def test_a_worker_that_receives_two_signals_for_one_stop_loses_nothing() -> None:
    """One from its supervisor, and one from a terminal or systemd, which signal all processes of a service."""
    with live_server("--workers", "2") as server:
        wait_until(lambda: server.log.count("Application startup complete.") == 2)
        with request_in_flight(server) as finish:
            for pid in re.findall(r"Started server process \[(\d+)\]", server.log):
                os.kill(int(pid), signal.SIGINT)
            server.process.send_signal(signal.SIGINT)
            time.sleep(1)
            assert finish().startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(10) == 0


def test_requests_are_aborted_after_the_drain_time(tmp_path: Path) -> None:
    save(tmp_path / "slow.safetensors", VAE(SLOW), training={}, metrics={})
    flags = ("--checkpoint", str(tmp_path / "slow.safetensors"), "--drain-time", "0.5")
    with live_server(*flags) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /sample?n=10000 HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0
        assert client.recv(1) == b""
        assert "Traceback" not in server.log


def test_a_stop_while_the_checkpoint_is_loaded_is_status_0(tmp_path: Path) -> None:
    server = start(program=("-c", STOPPED_WHILE_IT_LOADS), log_file=tmp_path / "log")
    assert server.process.wait(START_LIMIT_S) == 0
    assert "Traceback" not in server.log


# Starts that cannot be.


class Trap:
    """An object that writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "sprung")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("starts")


@pytest.fixture(scope="module")
def failed_starts(folder: Path) -> Iterator[dict[str, LiveServer]]:
    """Several services that cannot start, started at the same time."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (folder / "pickle.pt").write_bytes(pickle.dumps(Trap(folder / "sprung")))
        port = str(taken.getsockname()[1])
        flags: dict[str, tuple[str, ...]] = {
            "checkpoint": ("--checkpoint", str(folder / "missing.safetensors")),
            "checkpoint, two workers": ("--checkpoint", str(folder / "pickle.pt"), "--workers", "2"),
            "checkpoint, torch": ("--checkpoint", str(folder / "missing.safetensors"), "--runtime", "torch"),
            "port": ("--port", port),
            "port, two workers": ("--port", port, "--workers", "2"),
        }
        servers = {name: start(*given, log_file=folder / f"{name}.log") for name, given in flags.items()}
        try:
            for server in servers.values():
                server.process.wait(START_LIMIT_S)
            yield servers
        finally:
            for server in servers.values():
                server.process.kill()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("checkpoint", r"The checkpoint .*missing\.safetensors cannot be read: No such file or directory\."),
        (
            "checkpoint, two workers",
            r"The checkpoint .*pickle\.pt cannot be used: it is not a state_dict that torch .*\.",
        ),
        ("checkpoint, torch", r"The checkpoint .*missing\.safetensors cannot be read: No such file or directory\."),
        ("port", TAKEN),
        ("port, two workers", TAKEN),
    ],
)
def test_a_failed_start_is_one_sentence_and_status_2(
    failed_starts: dict[str, LiveServer], folder: Path, name: str, said: str
) -> None:
    server = failed_starts[name]
    assert server.process.returncode == 2
    (line,) = server.log.splitlines()
    assert re.search(rf"(^vae-serve:| ERROR  ) {said}$", line)
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_log_has_the_port_that_the_system_chose(workers: str, tmp_path: Path) -> None:
    server = start("--port", "0", "--workers", workers, log_file=tmp_path / "log")
    try:
        wait_until(lambda: "Application startup complete." in server.log)
        (address, *_) = re.findall(r"Serving \S+ at (\S+): ", server.log)
        assert httpx.get(f"http://{address}/livez").status_code == 200
        assert ":0:" not in server.log
    finally:
        server.process.terminate()
        server.process.wait(START_LIMIT_S)
