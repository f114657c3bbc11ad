import json
import re
import socket
import time

import httpx
import pytest

from service.telemetry.access_log import AccessLog, AccessRecord
from tests.live import live_server
from tests.service.pictures import Bytes, png
from tests.service.running import running, wait_until
from tests.service.telemetry.test_prometheus import scrape


def test_every_answer_has_the_requests_id(client: httpx.Client) -> None:
    """The caller's where it can stand in a log, and else one of the service's own."""
    own = set()
    for path in ("/", "/model", "/nowhere", "/sample?n=-1", "/metrics"):
        given = client.get(path, headers={"x-request-id": "0af7651916cd43dd/8448-eb.c"})
        assert given.headers["x-request-id"] == "0af7651916cd43dd/8448-eb.c"
        own.add(client.get(path).headers["x-request-id"])
        for bad in ("", "a b", "x" * 129, "{}", 'a"b'):
            own.add(client.get(path, headers={"x-request-id": bad}).headers["x-request-id"])
    assert len(own) == 5 * 6
    assert all(re.fullmatch("[0-9a-f]{12}-[0-9a-f]+", name) for name in own)


def test_the_answer_tells_where_its_time_went(client: httpx.Client) -> None:
    before = time.perf_counter()
    told = client.get("/sample?n=1000").headers["server-timing"]
    took = (time.perf_counter() - before) * 1000
    match = re.fullmatch(r"queue;dur=(\d+\.\d{3}), compute;dur=(\d+\.\d{3})", told)
    assert match
    assert 0 < float(match[1]) + float(match[2]) < took
    assert "server-timing" not in client.get("/model").headers


def test_the_log_has_the_trace_and_the_id() -> None:
    with live_server("--log-format", "json") as server:
        headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "x-request-id": "mine"}
        httpx.get(f"{server.url}/sample", headers=headers)
        httpx.get(f"{server.url}/model", headers={**headers, "traceparent": "00-4bf9-00-01"})
        wait_until(lambda: "/model" in server.log)
        lines = [line for line in map(json.loads, server.log.splitlines()) if line["logger"] == "vae-service.access"]
    sample, model = (line for line in lines if line.get("request_id") == "mine")
    assert sample["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert 0 < sample["queue_seconds"] + sample["compute_seconds"] < sample["seconds"]
    assert "trace_id" not in model
    assert "queue_seconds" not in model


def test_every_exchange_has_its_line_whichever_way_it_took() -> None:
    with live_server() as server:
        png = httpx.post(f"{server.url}/decode", json=[0, 0, 0])
        refused = httpx.post(f"{server.url}/decode", json=[0, 0])
        page, lost = server.get("/"), server.get("/nowhere?seed=1")
        wait_until(lambda: "/nowhere" in server.log)
        for method, path, answer in (
            ("POST", "/decode", png),
            ("POST", "/decode", refused),
            ("GET", "/", page),
            ("GET", "/nowhere", lost),
        ):
            size, name = answer.headers["content-length"], answer.headers["x-request-id"]
            came = len(answer.request.content)
            sizes = f"{came} bytes in, {size} out"
            line = rf"127\.0\.0\.1 {method} {path} {answer.status_code}, {sizes}, \d+\.\d ms.*, {name}$"
            assert re.search(line, server.log, re.MULTILINE)
        assert "seed" not in server.log


def test_what_a_connection_refuses_is_counted_and_logged_with_its_id() -> None:
    with live_server("--log-format", "json", "--client-timeout", "0.3") as server:
        answers = []
        for request in (b"nonsense\r\n\r\n", b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n[0,"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                connection.sendall(request)
                answers.append(b"".join(iter(lambda: connection.recv(65536), b"")))
        wait_until(lambda: '"status":408' in server.log)
        lines = [line for line in map(json.loads, server.log.splitlines()) if line["logger"] == "vae-service.access"]
        counts = server.get("/metrics").text
    for answer, status, method, route in zip(answers, (400, 408), ("-", "POST"), ("other", "/decode"), strict=True):
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        match = re.search(rb"x-request-id: (\S+)\r\n", answer)
        assert match
        (line,) = (line for line in lines if line["status"] == status)
        assert (line["method"], line["route"], line["request_id"]) == (method, route, match[1].decode())
        kind = "other" if method == "-" else method
        assert (
            f'{{media_type="application/problem+json",method="{kind}",route="{route}",status="{status}"}} 1.0' in counts
        )


def test_cors_changes_nothing_in_what_is_counted_and_logged(monkeypatch: pytest.MonkeyPatch, images: Bytes) -> None:
    """With origins that may call, each exchange has the same route, bytes in and bytes out as without."""
    records: list[AccessRecord] = []
    monkeypatch.setattr(AccessLog, "add", lambda self, exchange: records.append(exchange))
    tensor = {"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [0.1, -0.2, 0.3]}
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}

    def ask(*cors_origins: str) -> tuple[list[tuple[str, bytes, str, int, int, int]], dict[object, float]]:
        records.clear()
        with running(log_level="info", cors_origins=cors_origins) as service:
            client = service.client
            client.headers["origin"] = "https://a.example"
            answers = [
                client.post("/v2/models/mnist/infer", json={"inputs": [tensor]}),
                client.post("/v2/models/mnist/versions/1/infer", json={"inputs": []}),
                client.post("/encode", content=png(images[0]), headers={"content-type": "image/png"}),
                client.post("/decode", json=[0, 0, 0]),
                client.post("/decode", content=iter([b"[0, ", b"0, 0]"]), headers={"content-type": "application/json"}),
                client.post("/decode", json=[0]),
                *(client.get(path) for path in ("/sample?seed=1", "/v2", "/livez", "/", "/nowhere")),
                client.post("/nowhere", json=[0]),
                client.delete("/decode"),
            ]
            allowed = [answer.headers.get("access-control-allow-origin") for answer in answers]
            assert allowed == [*(cors_origins or [None])] * len(answers)
            for path in ("/decode", "/v2/models/mnist/infer"):
                assert client.options(path, headers=preflight).status_code == (200 if cors_origins else 405)
            samples = scrape(client)
        lines = [(each.method, each.path, each.route, each.status, each.bytes_in, each.bytes_out) for each in records]
        assert len({each.request_id for each in records}) == len(records)
        return lines, {sample: count for sample, count in samples.items() if sample[0] == "vae_requests_total"}

    lines, samples = ask()
    lines_with_cors, samples_with_cors = ask("https://a.example")
    assert lines[0][2] == "/v2/models/{name}/infer"
    assert [received for *_, received, _ in lines[:6]] == [79, 13, len(png(images[0])), 7, 9, 3]
    exact, preflights = slice(0, 13), slice(13, 15)
    assert lines_with_cors[exact] == lines[exact]
    assert [line[:3] for line in lines_with_cors[preflights]] == [line[:3] for line in lines[preflights]]
    assert [line[2] for line in lines[preflights]] == ["/decode", "/v2/models/{name}/infer"]
    without = {key: count for key, count in samples.items() if "OPTIONS" not in str(key)}
    assert {key: count for key, count in samples_with_cors.items() if "OPTIONS" not in str(key)} == without
    assert sum(samples.values()) == sum(samples_with_cors.values())
