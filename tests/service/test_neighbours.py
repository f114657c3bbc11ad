"""Requests of other clients: bad items, slow uploads, and greedy API keys harm nobody else."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event
from typing import Any

import httpx
import pytest
import torch

from tests.service.api.requests import (
    JSON,
    NPY,
    post,
)
from tests.service.memory import LIMIT
from tests.service.problems import problem
from tests.service.running import Running, running, wait_until

Z = b"[0.5, -1, 2]"


# Items of the same batch.


class Held:
    """Keeps an engine from computing until it is let go, and counts the items that it computes."""

    def __init__(self, service: Running) -> None:
        engine = service.context.engine
        compute: Callable[..., Any] = engine._compute
        self.batches: list[int] = []
        self.released = Event()

        def watched(operation: object, items: Sequence[object], *rest: object) -> Any:
            self.batches.append(len(items))
            self.released.wait(20)
            return compute(operation, items, *rest)

        engine._compute = watched


def decode(service: Running) -> httpx.Response:
    return post(service.client, "/decode", Z, JSON)


def busy(service: Running, pool: ThreadPoolExecutor) -> Held:
    """The engine, at work on one item."""
    held = Held(service)
    pool.submit(decode, service)
    while not held.batches:
        time.sleep(0.002)
    return held


def test_a_bad_item_spoils_no_other() -> None:
    bodies = [json.dumps([i / 7, -i / 9, i / 11]) for i in range(31)]
    bad = {"null": JSON, "[NaN, 0, 0]": JSON, "[1e39, 0, 0]": JSON, "\x93NUMPY": NPY}
    with running(compute="thread") as service, ThreadPoolExecutor(40) as pool:

        def ask(body: str) -> bytes:
            return post(service.client, "/decode", body, JSON).content

        alone = [ask(body) for body in bodies]
        assert len(set(alone)) == 31
        held = busy(service, pool)
        try:
            waiting = [pool.submit(ask, body) for body in bodies]
            for body, kind in bad.items():
                assert post(service.client, "/decode", body, kind).status_code in (400, 422)
            service.wait_for(in_flight=32)
        finally:
            held.released.set()
        assert [future.result() for future in waiting] == alone
    assert held.batches == [1, 31]


def test_a_row_that_the_model_makes_nan_of_spoils_no_other() -> None:
    with running(compute="thread", runtime="torch") as service, ThreadPoolExecutor(40) as pool:
        weights = service.context.engine._backend.model.state_dict()  # shared with the model
        weights["decoder.0.weight"][0] = torch.tensor([1e38, 0, 0])  # only a large first number gets through
        weights["decoder.0.bias"][0] = 0
        weights["decoder.2.weight"][:, 0] = 1e38

        def ask(z: list[float]) -> httpx.Response:
            return service.client.post("/decode", json=z)

        sound = [[0.0, i / 7, -i / 9] for i in range(31)]
        alone = [ask(z).content for z in sound]
        assert len(set(alone)) == 31
        held = busy(service, pool)
        try:
            waiting = [pool.submit(ask, z) for z in [[1000.0, 0, 0], *sound]]
            service.wait_for(in_flight=33)
        finally:
            held.released.set()
        unsound, *others = [future.result() for future in waiting]
        problem(unsound, 500)
        assert [answer.content for answer in others] == alone
        figures = service.client.get("/metrics").text
        assert (
            'vae_refusals_total{model="mnist",reason="unsound_output",version="1"} 2.0' in figures
        )  # the one that was being computed is too
    assert held.batches == [1, 32]


# Requests whose clients no longer wait.


def test_what_is_too_late_is_not_computed() -> None:
    with running(compute="thread", request_deadline=0.5) as service, ThreadPoolExecutor(8) as pool:
        held = busy(service, pool)
        try:
            late = [pool.submit(decode, service) for _ in range(4)]
            assert [future.result().status_code for future in late] == [504] * 4
            service.wait_for(in_flight=0)
        finally:
            held.released.set()
        assert decode(service).status_code == 200
    assert held.batches == [1, 1]


def test_a_client_that_disconnects_in_the_queue_is_not_computed_for() -> None:
    with running(compute="thread") as service, ThreadPoolExecutor(8) as pool:
        held = busy(service, pool)
        try:
            clients = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(4)]
            for client in clients:
                head = f"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: {len(Z)}\r\n\r\n"
                client.sendall(head.encode() + Z)
            service.wait_for(in_flight=5)
            for client in clients:
                client.close()
            service.wait_for(in_flight=1)
        finally:
            held.released.set()
        assert decode(service).status_code == 200
    assert held.batches == [1, 1]


# Slow uploads.


@pytest.fixture(scope="module")
def narrow() -> Iterator[Running]:
    with running(queue_limit=2, body_limit=LIMIT) as service:
        yield service


@pytest.mark.parametrize("length", [b"content-length: 7", b"content-length: 90000", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("more", [b"", b"expect: 100-continue\r\n"])
def test_slow_uploads_keep_nobody_out(narrow: Running, length: bytes, more: bytes) -> None:
    head = b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n%b%b\r\n\r\n" % (more, length)
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", narrow.port))) for _ in range(5)]
        for client in slow:
            client.sendall(head)
        narrow.wait_for(in_flight=5)
        assert [decode(narrow).status_code for _ in range(3)] == [200] * 3
        if length.endswith(b" 7"):
            slow[4].sendall(b"[0,0,0]")
            narrow.wait_for(in_flight=4)
            assert b"HTTP/1.1 200" in slow[4].recv(65536)
    narrow.wait_for(in_flight=0)


# Greedy API keys.


def test_a_greedy_key_does_not_push_a_polite_one_out() -> None:
    with running(queue_limit=6, api_keys=("greedy", "polite")) as service, ThreadPoolExecutor(8) as pool:
        over = Event()
        statuses: set[int] = set()

        def hog() -> None:
            with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client:
                while not over.is_set():
                    statuses.add(client.get("/sample?n=30", headers={"x-api-key": "greedy"}).status_code)

        hogs = [pool.submit(hog) for _ in range(8)]
        try:
            wait_until(lambda: 429 in statuses)
            headers = {"x-api-key": "polite"}
            answers = [post(service.client, "/decode", Z, JSON, **headers) for _ in range(30)]
        finally:
            over.set()
        for future in hogs:
            future.result()
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.elapsed.total_seconds() for answer in answers)[28] < 1
    assert statuses == {200, 429}


def test_a_greedy_key_makes_nobody_wait_for_all_that_it_asks() -> None:
    """With the limits that there are by default."""
    asked = b"GET /sample?n=10000 HTTP/1.1\r\nhost: x\r\nx-api-key: greedy\r\n\r\n"
    with running(api_keys=("greedy", "polite")) as service, ExitStack() as stack:
        for _ in range(90):
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port))).sendall(asked)
        client = service.client
        client.headers["x-api-key"] = "polite"
        answers = [post(client, "/decode", Z, JSON) for _ in range(5)]
        assert (
            float(
                re.findall(
                    r"^vae_requests_in_flight\{model=\"mnist\".* (\S+)", client.get("/metrics").text, re.MULTILINE
                )[0]
            )
            > 10
        )
    assert {answer.status_code for answer in answers} == {200}
    assert max(answer.elapsed.total_seconds() for answer in answers) < 5  # all that was asked for takes longer
