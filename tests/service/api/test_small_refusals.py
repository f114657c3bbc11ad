"""Small requests on the fast path that get no result: refused, failed, or given up, as all others."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from service.api import responses, small_operations
from service.formats.png import write_png
from service.http.cycle import Cycle
from service.inference.backend import ByteArray, FloatArray
from service.telemetry.access_log import AccessRecord
from tests.service.api.small import (
    FOR_JSON,
    MARKED_Z,
    OTHER,
    OTHER_Z,
    PNG,
    PNGS,
    PROBLEM,
    RIGHT,
    WRONG,
    Z,
    ask,
    counts,
    decode,
    head,
    held,
    known,
    settled,
    whole,
)
from tests.service.http.wire import LAST_PROBE, connect, receive_all, receive_response, settle
from tests.service.running import Running, running, wait_until

# Who is refused.


@pytest.mark.parametrize(
    "heads_and_bodies",
    [
        *(
            (decode(*fields), Z.ljust(24), bad.ljust(24))
            for fields in ((), (FOR_JSON,))
            for bad in (
                b"[1, 2",
                b"[1, 2]",
                b"[1, 2, 1e9]",
                b"[1, 2, NaN]",
                b'{"y": [1, 2, 3]}',
                b'"z"',
                b"\xff",
                b"[]",
            )
        ),
        *(
            (head(b"POST " + path, PNG), PNGS[0], bad)
            for path in (b"/encode", b"/reconstruct")
            for bad in (PNGS[0][:-20] + bytes(20), PNGS[0][:100].ljust(len(PNGS[0])), bytes(len(PNGS[0])))
        ),
    ],
)
def test_a_bad_body_behind_a_known_head(
    served: Running, records: list[tuple[AccessRecord, str]], heads_and_bodies: tuple[bytes, bytes, bytes]
) -> None:
    begun, good, bad = heads_and_bodies
    distances = served.context.counters.histogram("vae_latent_distance")
    (expected,) = settled(served, whole(b"%ba: b\r\n" % begun, bad))
    assert re.match(rb"HTTP/1\.1 (400|422) ", expected)
    known(served, begun, good)
    before, counted = list(distances.counts), len(records)
    assert settled(served, whole(begun, bad)) == [expected]
    assert [(each.status, media_type) for each, media_type in records[counted:]] == [(int(expected[9:12]), PROBLEM)]
    assert distances.counts == before
    assert served.admission.confirmed == 0


def test_an_unforeseen_error_in_a_body_is_left_to_the_parser(
    served: Running, parsed: list[Cycle], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = known(served, decode())
    monkeypatch.setattr(small_operations, "latents_of_json", lambda *_: 1 / 0)
    assert ask(served, whole(begun))[0].startswith(b"HTTP/1.1 200 ")
    assert len(parsed) == 2
    assert served.admission.confirmed == 0


@pytest.mark.parametrize("other", [WRONG, b"x-api-key: ", b"authorization: Bearer wrong\r\n" + RIGHT, b"x-key: right"])
def test_a_head_with_the_right_key_lets_no_other_in(keyed: Running, parsed: list[Cycle], other: bytes) -> None:
    begun = known(keyed, decode(RIGHT))
    unauthorized = whole(begun.replace(RIGHT, other))
    _, before = counts(keyed, 401, "key")
    received = ask(keyed, *[unauthorized, whole(begun)] * 4)
    assert [response[9:12] for response in received] == [b"401", b"200"] * 4
    assert len({settle(response) for response in received}) == 2
    wait_until(lambda: counts(keyed, 401, "key")[1] == before + 4)
    assert len(parsed) == 5


@pytest.mark.parametrize(
    ("settings", "key", "status", "reason"),
    [
        ({"queue_limit": 1}, RIGHT, 503, "queue_full"),
        ({"queue_limit": 1, "api_keys": ("right", "other")}, OTHER, 503, "queue_full"),
        ({"queue_limit": 2, "api_keys": ("right", "other")}, RIGHT, 429, "share"),
    ],
)
def test_a_full_queue_refuses(settings: dict[str, Any], key: bytes, status: int, reason: str) -> None:
    with running(**settings) as service, connect(service.port) as connection:
        begun, refused = known(service, decode(RIGHT)), known(service, decode(key))
        with held(service) as batcher:
            connection.sendall(whole(begun))
            wait_until(lambda: batcher.waiting == 1)
            received = settled(service, whole(refused), whole(decode(key)), whole(refused))
            assert received == [received[0]] * 3
            assert received[0].startswith(b"HTTP/1.1 %d " % status)
            wait_until(lambda: counts(service, status, reason) == (3, 3))
            if status == 429:
                assert ask(service, whole(decode(OTHER, FOR_JSON)))[0].startswith(b"HTTP/1.1 200 ")
        assert receive_response(connection).startswith(b"HTTP/1.1 200 ")
        assert ask(service, whole(refused))[0].startswith(b"HTTP/1.1 200 ")


def test_who_drains_answers_what_it_has_let_in() -> None:
    with running() as service, connect(service.port) as connection:
        begun = known(service, decode())
        with held(service) as batcher:
            connection.sendall(whole(begun))
            wait_until(lambda: batcher.waiting == 1)
            service.admission.status = "draining"
            refused = settled(service, whole(begun), whole(decode()))
            assert refused[0].startswith(b"HTTP/1.1 503 ")
            assert refused[0] == refused[1]
            pending: Any = batcher._queue[0].future
            batcher._loop.call_soon_threadsafe(pending._client.shutdown)
            wait_until(lambda: not pending.keep_alive)
        response = receive_all(connection)
    assert response.startswith(b"HTTP/1.1 200 ")
    assert response.partition(b"\r\n\r\n")[0].endswith(b"\r\nconnection: close")


# Who fails, or is gone.


@pytest.mark.parametrize(
    ("fails", "status", "reason"),
    [("output", 500, "unsound_output"), ("write", 500, "failure"), ("write on the fast path", 200, "failure")],
)
def test_a_failure_fails_one_request_once(
    served: Running,
    parsed: list[Cycle],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fails: str,
    status: int,
    reason: str,
) -> None:
    backend = served.context.engine._backend
    compute = backend.decode

    def compute_marked(z: FloatArray) -> FloatArray:
        pixels: FloatArray = compute(z)
        pixels[(z == 9).all(1)] = np.nan if fails == "output" else 1
        return pixels

    def write(scanlines: ByteArray, *args: Any) -> bytes:
        if (scanlines[..., 1:] == 255).all():
            raise ZeroDivisionError
        return write_png(scanlines, *args)

    begun = known(served, decode())
    failures, refusals = counts(served, 500, reason)
    monkeypatch.setattr(backend, "decode", compute_marked)
    monkeypatch.setattr(small_operations, "write_png", write)
    monkeypatch.setattr(responses, "write_png", write if fails == "write" else write_png)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(served.port)) for _ in range(3)]
        with held(served, 3):
            for client, body in zip(clients, (Z, MARKED_Z, OTHER_Z), strict=True):
                client.sendall(whole(begun, body))
        received = [receive_response(client) for client in clients]
        clients[1].sendall(LAST_PROBE)
        assert receive_all(clients[1]).count(b"HTTP/1.1 ") == 1
    assert [response[9:12] for response in received] == [b"200", b"%d" % status, b"200"]
    assert [settle(response) for response in received[::2]] == settled(
        served, *map(whole, (decode(), begun), (Z, OTHER_Z))
    )
    assert len(parsed) == 4  # the first one, the one that fails, and those after it
    assert counts(served, 500, reason) == (failures + (status == 500), refusals + (status == 500))
    assert caplog.text.count("The service failed at POST /decode") == (status == 500)
    assert served.admission.confirmed == 0


def test_a_client_that_is_gone_before_its_batch(served: Running, records: list[tuple[AccessRecord, str]]) -> None:
    rows = served.context.counters.histogram("vae_batch_rows", "draw")
    begun = known(served, decode())
    before = rows.total
    records.clear()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(served.port)) for _ in range(4)]
        with held(served) as batcher:
            for client, each in zip(clients, (begun, begun, decode(), begun), strict=True):
                client.sendall(whole(each))
            wait_until(lambda: batcher.waiting == served.admission.confirmed == 4)
            for client in clients[1:3]:
                client.close()
            wait_until(lambda: served.admission.confirmed == 2)
        for client in clients[::3]:
            assert receive_response(client).startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: len(records) == 4)
    assert served.admission.confirmed == 0
    assert rows.total == before + 2
    lines = [(*each[1:8], media_type) for each, media_type in records]
    assert lines[:2] == [("127.0.0.1", "POST", b"/decode", "/decode", 499, 9, 0, "")] * 2
    assert [line[4] for line in lines[2:]] == [200, 200]
