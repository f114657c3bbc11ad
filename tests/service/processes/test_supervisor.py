"""Two workers on one port."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.settings import BUNDLED
from tests.live import ROOT, START_LIMIT_S, LiveServer, free_port, live_server
from tests.service.problems import problem
from tests.service.processes.test_server import SAMPLE, request_in_flight
from tests.service.running import wait_until
from tests.soak import blocking

pytestmark = pytest.mark.slow

STOPPED_BEFORE_A_START = """
import signal
from unittest import mock
from service.__main__ import main
from service.processes.supervisor import Supervisor

lacks_workers = Supervisor._lacks_workers

def stop_before_the_third(supervisor):
    lacks = lacks_workers(supervisor)
    if lacks and supervisor._all_served:
        signal.raise_signal(signal.SIGTERM)
    return lacks

with mock.patch.object(Supervisor, "_lacks_workers", stop_before_the_third):
    main()
"""
"""The service, stopped after it has found that a worker is missing, and before it starts the replacement."""


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with live_server("--workers", "2") as server:
        wait_until(lambda: len(workers(server)) == 2)
        yield server


def workers(server: LiveServer) -> list[int]:
    """Processes that serve, in the order of their start."""
    log = server.log
    started = re.findall(r"Started server process \[(\d+)\]", log)
    return [int(pid) for pid in started] if log.count("Application startup complete.") >= len(started) else []


def test_all_workers_give_the_same_and_a_killed_one_is_replaced(server: LiveServer, client: httpx.Client) -> None:
    expected = client.get(SAMPLE).content
    first, second = workers(server)
    for asleep in (first, second):
        os.kill(asleep, signal.SIGSTOP)  # so that the other one answers
        try:
            assert server.get(SAMPLE).content == expected
            assert server.get("/sample").content != server.get("/sample").content
        finally:
            os.kill(asleep, signal.SIGCONT)

    os.kill(first, signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: len(workers(server)) == 3, limit=10)
    third = workers(server)[2]
    os.kill(second, signal.SIGSTOP)
    try:
        assert server.get(SAMPLE).content == expected
    finally:
        os.kill(second, signal.SIGCONT)
    assert time.monotonic() - killed < 10
    assert third not in (first, second)
    assert f"Worker {first} ended with status -9; a new one starts." in server.log

    with request_in_flight(server) as finish:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.log.count("Finished server process") == 1)  # the idle one
        assert server.get("/readyz").status_code == 503
        assert "draining" in problem(server.get(SAMPLE), 503)["detail"]
        assert finish().startswith(b"HTTP/1.1 200 ")
    assert server.process.wait(10) == 0
    assert "Traceback" not in server.log
    for pid in (second, third):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", server.port))  # no process holds it any more


def test_an_idle_stop_is_status_0(server: LiveServer) -> None:
    """Even if the workers have ended before the supervisor checks them."""
    server.process.send_signal(signal.SIGSTOP)
    for pid in workers(server):
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: server.log.count("Finished server process") == 2)
    time.sleep(0.2)
    server.process.send_signal(signal.SIGINT)
    server.process.send_signal(signal.SIGCONT)
    assert server.process.wait(10) == 0
    assert "Traceback" not in server.log


def test_a_stop_just_before_a_worker_is_replaced_starts_no_other() -> None:
    with live_server("--workers", "2", program=("-c", STOPPED_BEFORE_A_START)) as server:
        wait_until(lambda: len(workers(server)) == 2)
        time.sleep(1)  # give the supervisor time to handle the signal too
        os.kill(workers(server)[0], signal.SIGKILL)
        assert server.process.wait(5) == 0
        assert server.log.count("Started server process") == 2
        assert "Traceback" not in server.log


def test_a_worker_that_stops_alone_keeps_the_backlog(server: LiveServer) -> None:
    first, second = workers(server)
    server.process.send_signal(signal.SIGSTOP)  # a replacement would set the backlog anew
    with ExitStack() as stack:
        stack.callback(server.process.send_signal, signal.SIGCONT)
        os.kill(first, signal.SIGTERM)
        wait_until(lambda: server.log.count("Finished server process") == 1)
        clients = connect(stack, server, second, 32)
        assert len(clients) == 32
        for client in clients:
            client.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: len(workers(server)) == 3)


def test_the_backlog_is_0_when_all_workers_stop(server: LiveServer) -> None:
    """Otherwise the last one to close the socket would reset the connections in its queue."""
    pids = workers(server)
    with request_in_flight(server) as finish, ExitStack() as stack:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.log.count("Finished server process") == 1)
        (finished,) = re.findall(r"Finished server process \[(\d+)\]", server.log)
        pids.remove(int(finished))
        assert len(connect(stack, server, pids[0], 4)) == 1
        assert finish().startswith(b"HTTP/1.1 200 ")
    assert server.process.wait(10) == 0


def connect(stack: ExitStack, server: LiveServer, last: int, most: int) -> list[socket.socket]:
    """Make up to `most` connections, as far as the backlog allows: the `last` worker is suspended meanwhile."""
    clients: list[socket.socket] = []
    os.kill(last, signal.SIGSTOP)
    try:
        with suppress(TimeoutError):
            for _ in range(most):
                client = socket.create_connection(("127.0.0.1", server.port), timeout=0.9)
                clients.append(stack.enter_context(client))
    finally:
        os.kill(last, signal.SIGCONT)
    return clients


def test_a_stuck_worker_is_replaced(server: LiveServer) -> None:
    first, second = workers(server)
    os.kill(first, signal.SIGSTOP)
    wait_until(lambda: len(workers(server)) == 3, limit=20)
    assert f"Worker {first} has not responded for 10 s." in server.log
    assert second in workers(server)
    assert server.get(SAMPLE).status_code == 200


def test_a_worker_whose_event_loop_is_blocked_is_replaced(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", blocking.__name__, "--port", str(port), "--workers", "2"]
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr, cwd=ROOT) as process:
        server = LiveServer(process, port, log)
        try:
            wait_until(lambda: len(workers(server)) == 2, limit=START_LIMIT_S)
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(f"GET {blocking.PATH} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                wait_until(lambda: len(workers(server)) == 3, limit=30)
                assert client.recv(1) == b""
            (stuck,) = re.findall(r"Worker (\d+) has not responded for 10 s\.", server.log)
            assert int(stuck) in workers(server)[:2]
            assert server.get("/livez").status_code == 200
        finally:
            process.terminate()


def test_a_worker_that_cannot_start_again_does_not_stop_the_others(tmp_path: Path) -> None:
    """With several threads each worker reads the checkpoint, which may be incomplete while it is being replaced."""
    checkpoint = tmp_path / "m.safetensors"
    sound = BUNDLED.read_bytes()
    checkpoint.write_bytes(sound)
    with live_server("--workers", "2", "--torch-threads", "2", "--checkpoint", str(checkpoint)) as server:
        wait_until(lambda: len(workers(server)) == 2)
        time.sleep(1)  # give the supervisor time to handle the signal too
        checkpoint.write_bytes(sound[:1000])
        os.kill(workers(server)[0], signal.SIGKILL)
        wait_until(lambda: server.log.count("could not start, status 2; the next one tries in ") == 2)
        assert re.findall(r"the next one tries in (\d+) s", server.log) == ["1", "2"]
        assert server.get(SAMPLE).status_code == 200
        checkpoint.write_bytes(sound)
        wait_until(lambda: server.log.count("Application startup complete.") == 3)
        assert server.process.poll() is None


def test_a_replacement_has_the_checkpoint_from_the_supervisor(tmp_path: Path) -> None:
    checkpoint = tmp_path / "m.safetensors"
    checkpoint.write_bytes(BUNDLED.read_bytes())
    with live_server("--workers", "2", "--checkpoint", str(checkpoint)) as server:
        wait_until(lambda: len(workers(server)) == 2)
        checkpoint.unlink()
        os.kill(workers(server)[0], signal.SIGKILL)
        wait_until(lambda: server.log.count("Application startup complete.") == 3)


def test_workers_end_with_their_supervisor(server: LiveServer) -> None:
    pids = workers(server)
    server.process.kill()
    wait_until(lambda: server.log.count("Finished server process") == 2, limit=5)
    assert "Traceback" not in server.log
    for pid in pids:
        wait_until(partial(gone, pid))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_workers_with_several_threads_answer() -> None:
    """OpenMP's threads must not start before the fork: the workers would wait for them forever."""
    with live_server("--workers", "2", "--torch-threads", "2") as server:
        for _ in range(4):
            assert httpx.post(f"{server.url}/decode", json=[[0, 0, 0]] * 500, timeout=20).status_code == 200
