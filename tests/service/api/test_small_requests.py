"""Small requests on the fast path: answered, counted and logged as all others."""

from __future__ import annotations

import itertools
import json
import re
import time
from typing import Any

import numpy as np
import pytest

from service.api.small_requests import MAX_BODY
from service.http.cycle import Cycle
from service.telemetry.access_log import AccessRecord
from tests.service.api.small import (
    FOR_JSON,
    JSON,
    NOISE,
    OTHER_Z,
    OWN_ID,
    PNG,
    PNGS,
    RIGHT,
    Z,
    ask,
    decode,
    head,
    held,
    known,
    settled,
    whole,
)
from tests.service.http.wire import connect, exchange, receive_response, settle
from tests.service.pictures import npy, picture
from tests.service.running import Running, running, wait_until

OF_MODEL = 'model="mnist",version="1"'


@pytest.mark.parametrize("key", [(), (RIGHT,), (b"authorization: Bearer right",)])
@pytest.mark.parametrize(
    ("target", "fields", "bodies"),
    [
        (b"/decode", (JSON,), (Z, OTHER_Z)),
        (b"/decode", (JSON + b"; charset=utf-8", b"accept: image/png"), (b'{"z": [1, 2, 3]}', b'{"z":[-1.5,2,3]}')),
        (b"/decode", (JSON, FOR_JSON), (Z, OTHER_Z)),
        (b"/decode?columns=3&scale=2", (JSON, b"connection: keep-alive"), (Z, OTHER_Z)),
        (b"/%64ecode?scale=4", (JSON,), (Z.ljust(100), OTHER_Z.rjust(100))),
        (b"/encode", (PNG,), PNGS),
        (b"/encode?invert=true&fit=cover&seed=1", (PNG, FOR_JSON), PNGS),
        (b"/encode?fit=stretch", (b"content-type: image/jpeg",), PNGS),
        (b"/reconstruct", (PNG,), PNGS),
        (b"/reconstruct?scale=3&invert=true", (PNG, b"accept: image/*"), PNGS),
    ],
)
def test_the_response_is_the_same_on_the_fast_path(
    request: pytest.FixtureRequest,
    parsed: list[Cycle],
    key: tuple[bytes, ...],
    target: bytes,
    fields: tuple[bytes, ...],
    bodies: tuple[bytes, bytes],
) -> None:
    service: Running = request.getfixturevalue("keyed" if key else "served")
    one, other = bodies
    repeated, unknown = (head(b"POST " + target, *fields, *key) for _ in range(2))
    expected = settled(service, whole(repeated, one), whole(unknown, other))
    assert len(parsed) == 2
    assert settled(service, *(whole(repeated, body) for body in (one, other, one))) == [*expected, expected[0]]
    assert len(parsed) == 2
    assert expected[0] != expected[1]
    for response in expected:
        assert response.startswith(b"HTTP/1.1 200 OK\r\ndate\r\n")
        assert response.count(b"\r\nserver-timing\r\n") == response.count(b"\r\nx-request-id\r\n") == 1
        assert (b"\r\ncache-control: no-store\r\n" in response) == bool(key)


OTHERS = {
    "GET": head(b"GET /sample?seed=1") + b"\r\n",
    "another route": whole(head(b"POST /interpolate", JSON), b'{"from": [0, 0, 0], "to": [1, 1, 1], "steps": 2}'),
    "content-encoding": whole(decode(b"content-encoding: identity")),
    "expect": whole(decode(b"expect: 100-continue")),
    "connection: close": whole(decode(b"connection: close")),
    "HTTP/1.0": whole(decode()).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "chunked": decode(b"transfer-encoding: chunked") + b"\r\n9\r\n" + Z + b"\r\n0\r\n\r\n",
    "a large body": whole(decode(), Z.ljust(MAX_BODY + 1)),
    "a batch": whole(decode(), b"[[1, 2, 3], [3, 2, 1]]"),
    "a batch of one": whole(decode(), b"[[1, 2, 3]]"),
    "npy": whole(head(b"POST /decode", b"content-type: application/x-npy"), npy(np.zeros(3, np.float32))),
    "NDJSON": whole(head(b"POST /decode", b"content-type: application/x-ndjson", FOR_JSON)),
    "npy of an image": whole(head(b"POST /encode", PNG, b"accept: application/x-npy"), PNGS[0]),
    "npy in the response": whole(decode(b"accept: application/x-npy")),
    "a large response": whole(head(b"POST /decode?scale=64", JSON)),
    "JPEG": whole(head(b"POST /encode", b"content-type: image/jpeg"), picture(NOISE[0], "JPEG")),
    "a palette": whole(head(b"POST /encode", PNG), picture(NOISE[0].convert("P"))),
    "a draw": whole(head(b"POST /encode?draw=true&seed=1", PNG), PNGS[0]),
    "a drawn image": whole(head(b"POST /reconstruct?draw=true&seed=1", PNG), PNGS[0]),
    "losses": whole(head(b"POST /reconstruct", PNG, FOR_JSON), PNGS[0]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_requests_do_not_take_it(served: Running, parsed: list[Cycle], name: str) -> None:
    request_bytes = OTHERS[name]
    received = [settled(served, request_bytes)[0] for _ in range(4)]
    assert len(parsed) == 4
    assert received[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert received == [received[0]] * 4


@pytest.mark.parametrize("settings", [{"tracing": True}, {"cors_origins": ("*",)}, {"compute": "thread"}])
def test_a_service_with_such_settings_has_none(
    monkeypatch: pytest.MonkeyPatch, parsed: list[Cycle], settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with running(**settings) as service:
        known(service, known(service, decode()))
    assert len(parsed) == 4


def test_images_over_the_limit_are_refused_again_and_again() -> None:
    with running(image_pixel_limit=28 * 28 - 1) as service:
        for begun in (decode(), decode(FOR_JSON)):
            assert all(b" 413 " in response for response in ask(service, *[whole(begun)] * 4))


# What comes in pieces, or ahead.

LENGTH = len(whole(decode()))
BODY = LENGTH - len(Z)


@pytest.mark.parametrize(
    ("cuts", "parsed_ones"),
    [
        ((), 3),
        ((10,), 3),
        ((BODY,), 3),
        ((BODY + 4,), 3),
        ((LENGTH + 10,), 3),
        ((LENGTH,), 2),
        ((LENGTH, LENGTH + 10), 2),
        ((LENGTH, LENGTH + BODY, LENGTH + BODY + 4, 2 * LENGTH), 2),
    ],
)
def test_requests_are_answered_in_order_however_they_arrive(
    served: Running, parsed: list[Cycle], cuts: tuple[int, ...], parsed_ones: int
) -> None:
    expected = settled(served, whole(decode()), whole(decode(), OTHER_Z))
    begun = known(served, decode())
    parsed.clear()
    stream = whole(begun) + whole(begun, OTHER_Z) + whole(begun)
    with connect(served.port) as connection:
        with held(served, 1) as batcher:
            for start, stop in itertools.pairwise((0, *cuts, len(stream))):
                connection.sendall(stream[start:stop])
                if stop == LENGTH:
                    wait_until(lambda: batcher.waiting == 1)
                time.sleep(0.01)
        received = [receive_response(connection) for _ in range(3)]
        assert len(parsed) == parsed_ones
        connection.sendall(whole(begun))
        received.append(receive_response(connection))
        assert len(parsed) == parsed_ones
    assert [settle(response) for response in received] == [*expected, expected[0], expected[0]]


# What is known of a request afterwards.


def test_ids_and_traces_differ_from_request_to_request(
    served: Running, parsed: list[Cycle], records: list[tuple[AccessRecord, str]]
) -> None:
    ids, traces = [b"id/%d" % i for i in range(4)], [b"00-%032x-00f067aa0ba902b7-01" % i for i in range(4)]
    begun = decode()
    varying = (b"x-request-id: %b\r\ntraceparent: %b\r\n" % each for each in zip(ids, traces, strict=True))
    received = ask(served, *(whole(begun + fields) for fields in varying))
    assert [re.findall(rb"\r\nx-request-id: ([^\r]*)\r\n", response) for response in received] == [[i] for i in ids]
    assert len({settle(response) for response in received}) == len(parsed) == 1
    wait_until(lambda: len(records) == 4)
    assert [(each.request_id, each.traceparent) for each, _ in records] == list(zip(ids, traces, strict=True))


@pytest.mark.parametrize(
    ("value", "is_fast"),
    [
        (b"", True),
        (b"a b", True),
        (b"x" * 200, True),
        (b"{}", True),
        (b"one \r\nX-Request-ID: two", False),
        (b"x" * 300, True),
        (b"a\xff", True),
    ],
)
def test_an_id_that_is_not_safe_to_log_is_replaced(
    served: Running, parsed: list[Cycle], value: bytes, is_fast: bool
) -> None:
    begun, field = decode(), b"x-request-id: %b\r\n"
    ask(served, whole(begun + field % b"right"))
    responses = ask(served, *[whole(each + field % value) for each in (begun, decode(), begun)])
    assert len({settle(response) for response in responses}) == 1
    assert len({match[0] for response in responses if (match := re.search(OWN_ID, response))}) == 3
    assert len(parsed) == 1 + (1 if is_fast else 2)


@pytest.mark.parametrize(("value", "status"), [(b"a\x01b", 400), (b"x" * 70_000, 431)])
def test_an_id_that_the_parser_refuses_is_refused(served: Running, value: bytes, status: int) -> None:
    known_head = decode()
    ask(served, whole(known_head + b"x-request-id: right\r\n"))
    for begun in (known_head, decode()):
        response = exchange(served.port, whole(begun + b"x-request-id: %b\r\n" % value))
        assert response.startswith(b"HTTP/1.1 %d " % status)


def test_metrics_are_those_of_other_requests(parsed: list[Cycle]) -> None:
    with running() as service:
        for begun, body in (
            (decode(), Z),
            (decode(FOR_JSON), Z),
            (head(b"POST /encode", PNG), PNGS[0]),
            (head(b"POST /reconstruct?scale=2", PNG), PNGS[0]),
        ):
            ask(service, *[whole(begun, body)] * 3)
        assert len(parsed) == 4
        lines = service.client.get("/metrics").text.splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    requests = {name: count for name, count in samples.items() if name.startswith("vae_requests_total")}
    assert requests == {
        f'vae_requests_total{{media_type="{media_type}",method="POST",model="mnist",route="{route}",status="200",'
        'version="1"}': "3.0"
        for route, media_type in (
            ("/decode", "image/png"),
            ("/decode", "application/json"),
            ("/encode", "application/json"),
            ("/reconstruct", "image/png"),
        )
    }
    assert samples[f"vae_requests_in_flight{{{OF_MODEL}}}"] == samples[f"vae_queue_rows{{{OF_MODEL}}}"] == "0.0"
    assert samples['vae_request_duration_seconds_count{model="mnist",route="/decode",version="1"}'] == "6.0"
    for name in ("vae_latent_distance", "vae_kl_divergence_nats"):
        assert samples[f"{name}_count{{{OF_MODEL}}}"] == "6.0"
    for operation in ("draw", "decode", "encode", "redraw"):
        for name in ("vae_batch_rows_sum", "vae_queue_duration_seconds_count", "vae_compute_duration_seconds_count"):
            assert samples[f'{name}{{model="mnist",operation="{operation}",version="1"}}'] == "3.0"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_lines_are_those_of_other_requests(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    begun = head(b"POST /%64ecode?scale=2", JSON, b"traceparent: 00-" + b"a1" * 16 + b"-00f067aa0ba902b7-01")
    with running(log_level="info", log_format=log_format) as service:
        received = ask(service, *(whole(begun + b"x-request-id: id-%d\r\n" % i) for i in range(4)))
    lines = [line for line in capsys.readouterr().err.splitlines() if "ecode" in line]
    size = len(received[0].partition(b"\r\n\r\n")[2])
    assert [re.findall("id-[0-9]", line) for line in lines] == [[f"id-{i}"] for i in range(4)]
    if log_format == "text":
        assert all(f" POST /%64ecode 200, 9 bytes in, {size} out, " in line for line in lines)
        times = "[0-9-]+ [0-9:,]+ |[0-9.]+ (ms|queued|computed)|id-[0-9]"
        assert len({re.sub(times, "", line) for line in lines}) == 1
        return
    read = [json.loads(line) for line in lines]
    for line in read:
        assert 0 < line.pop("queue_seconds") + line.pop("compute_seconds") < line.pop("seconds") < 1
        del line["time"], line["request_id"]
    assert read == [read[0]] * 4
    assert (read[0]["route"], read[0]["status"], read[0]["bytes_in"]) == ("/decode", 200, 9)
    assert (read[0]["bytes_out"], read[0]["trace_id"]) == (size, "a1" * 16)
