"""Statuses 429, 500, 503 and 504, and the exceptions of the service."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service import errors
from service.errors import Problem, ServiceError, problem_document
from tests.service.api.requests import (
    JSON,
    ROUTES,
    Z,
    post,
)
from tests.service.problems import problem
from tests.service.running import Broken, Running, Stalled, running, wait_until

# 429, 503 and 504.


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def stall(service: Running) -> Stalled:
    stalled: list[Stalled] = []

    def make(engine: Any) -> Stalled:
        stalled.append(Stalled(engine))
        return stalled[0]

    service.swap_engine(make)
    return stalled[0]


def test_full_queue(pool: ThreadPoolExecutor) -> None:
    with running(queue_limit=2) as service:
        engine = stall(service)
        try:
            waiting = [pool.submit(service.client.post, "/decode", json=Z) for _ in range(2)]
            service.wait_for(in_flight=2)
            refused = service.client.get("/model")
            assert "All 2 places in the queue are taken" in problem(refused, 503)["detail"]
            assert refused.headers["retry-after"] == "1"
            for path in ("/livez", "/readyz", "/", "/openapi.json"):
                assert service.client.get(path).status_code == 200
        finally:
            engine.released.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
        service.wait_for(in_flight=0)
        assert service.client.get("/model").status_code == 200


def test_one_keys_share(pool: ThreadPoolExecutor) -> None:
    with running(queue_limit=5, api_keys=("a", "b")) as service:
        engine = stall(service)
        greedy, modest = {"x-api-key": "a"}, {"x-api-key": "b"}
        try:
            waiting = [pool.submit(service.client.post, "/decode", json=Z, headers=greedy) for _ in range(2)]
            service.wait_for(in_flight=2)
            refused = service.client.get("/model", headers=greedy)
            assert "2 requests in flight, its share" in problem(refused, 429)["detail"]
            assert refused.headers["retry-after"] == "1"
            assert service.client.get("/model", headers=modest).status_code == 200
        finally:
            engine.released.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
        service.wait_for(in_flight=0)
        assert service.client.get("/model", headers=greedy).status_code == 200


@pytest.mark.parametrize("status", ["starting", "draining"])
def test_not_ready(status: Any) -> None:
    with running() as service:
        service.admission.status = status
        for method, path in ROUTES:
            refused = service.client.request(method, path)
            assert f"The service is {status}" in problem(refused, 503)["detail"]
            assert refused.headers["retry-after"] == "1"
        ready = service.client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": status})
        assert service.client.get("/livez").status_code == 200


def test_deadline(pool: ThreadPoolExecutor) -> None:
    with running(request_deadline=0.2) as service:
        engine = stall(service)
        try:
            late = service.client.post("/decode", json=Z)
            assert problem(late, 504)["detail"] == "The request took longer than 0.2 seconds."
            assert late.elapsed.total_seconds() < 1.5
            service.wait_for(in_flight=0)
        finally:
            engine.released.set()
        assert service.client.post("/decode", json=Z).status_code == 200


def test_deadline_of_a_body_that_never_ends() -> None:
    with running(request_deadline=0.2) as service:
        head = f"POST /decode HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {JSON}\r\ncontent-length: 9\r\n"
        assert service.exchange(f"{head}\r\n[1,".encode()).startswith(b"HTTP/1.1 504 ")
        service.wait_for(in_flight=0)


# 500, and errors of a connection.


def test_a_failure_says_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    with running() as service:
        service.swap_engine(Broken)
        answer = service.client.post("/decode", json=Z)
        assert problem(answer, 500)["detail"] == "The service failed on this request; its log says why."
        assert "secret" not in answer.text + str(answer.headers)
        assert service.admission.in_flight == 0
        assert service.client.get("/model").status_code == 200
    (record,) = (record for record in caplog.records if record.exc_info)
    assert "the secret of /inside/engine.py" in str(record.exc_info)


@pytest.mark.parametrize("request_bytes", [b"\0\1garbage\r\n\r\n", b"GET /model HTTP/9\r\n\r\n", b"FROB\r\n\r\n"])
def test_what_is_not_http(served: Running, request_bytes: bytes) -> None:
    head, _, body = served.exchange(request_bytes).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 400 Bad Request"
    headers = httpx.Headers([line.partition(": ")[::2] for line in lines[1:]])
    assert int(headers["content-length"]) == len(body)
    assert problem(httpx.Response(400, headers=headers, content=body), 400)["detail"] == "This is not HTTP/1.1."


def test_bad_chunks(served: Running) -> None:
    head = f"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n"
    assert served.exchange(head.encode() + b"zz\r\n").startswith(
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/p"
    )


def test_a_caller_who_hangs_up_is_no_failure(served: Running, caplog: pytest.LogCaptureFixture) -> None:
    head = f"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: 100\r\n\r\n[1,"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(head.encode())
        served.wait_for(in_flight=1)
    served.wait_for(in_flight=0)
    wait_until(lambda: served.client.get("/model").status_code == 200)
    assert not [record for record in caplog.records if record.exc_info]


# The exceptions.


def leaves(tree: type[ServiceError]) -> list[type[ServiceError]]:
    return [tree] if not tree.__subclasses__() else [leaf for sub in tree.__subclasses__() for leaf in leaves(sub)]


def test_every_error_has_a_status_of_its_own_and_stands_in_the_module() -> None:
    statuses = [int(error.status) for error in leaves(ServiceError)]
    assert sorted(statuses) == sorted(set(statuses))
    for error in leaves(ServiceError):
        assert f"{error.__name__} " in (errors.__doc__ or "")


def test_problem_document_of_a_field() -> None:
    class Odd(ServiceError):
        status = leaves(ServiceError)[0].status

    document = json.loads(problem_document(Odd("Größe.", problems=[Problem("body", "/a/0", "Größe.")])))
    assert document["errors"] == [{"in": "body", "pointer": "/a/0", "detail": "Größe."}]


@pytest.mark.parametrize("path", ["/decode", "/interpolate", "/traverse", "/v2/models/mnist/infer"])
def test_a_name_of_megabytes_is_told_shortened(client: httpx.Client, path: str) -> None:
    for letters, status in ((10**6, 422), (10**7, 413)):
        answer = post(client, path, b'{"%b": 1}' % (b"x" * letters), JSON)
        assert answer.status_code == status
        assert len(answer.content) < 2000
