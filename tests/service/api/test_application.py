import json
import re
import time
from typing import Any

import httpx
import pytest

from service.telemetry.access_log import AccessLog, AccessRecord
from tests.service.pictures import Bytes, png
from tests.service.running import running, wait_until
from tests.service.telemetry.test_prometheus import scrape

pytestmark = pytest.mark.slow


def test_every_answer_has_the_requests_id(client: httpx.Client) -> None:
    """The client's if it is safe to log, otherwise a new one."""
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
    timing = client.get("/sample?n=1000").headers["server-timing"]
    took = (time.perf_counter() - before) * 1000
    match = re.fullmatch(r"queue;dur=(\d+\.\d{3}), compute;dur=(\d+\.\d{3})", timing)
    assert match
    assert 0 < float(match[1]) + float(match[2]) < took
    assert "server-timing" not in client.get("/model").headers


class Log:
    """What a service in this process has written to standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.text = ""

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self._read())

    @property
    def access_lines(self) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.text.splitlines()) if line["logger"] == "vae-service.access"]

    def _read(self) -> str:
        self.text += self._capsys.readouterr().err
        return self.text


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Log:
    return Log(capsys)


def test_the_log_has_the_trace_and_the_id(log: Log) -> None:
    with running(log_level="info", log_format="json") as service:
        headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "x-request-id": "mine"}
        service.client.get("/sample", headers=headers)
        service.client.get("/model", headers={**headers, "traceparent": "00-4bf9-00-01"})
        log.wait_for("/model")
    sample, model = (line for line in log.access_lines if line.get("request_id") == "mine")
    assert sample["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert 0 < sample["queue_seconds"] + sample["compute_seconds"] < sample["seconds"]
    assert "trace_id" not in model
    assert "queue_seconds" not in model


def test_every_request_has_its_line_whichever_way_it_took(log: Log) -> None:
    with running(log_level="info") as service:
        client = service.client
        decoded, refused = client.post("/decode", json=[0, 0, 0]), client.post("/decode", json=[0, 0])
        page, lost = client.get("/"), client.get("/nowhere?seed=1")
        log.wait_for("/nowhere")
    for method, path, response in (
        ("POST", "/decode", decoded),
        ("POST", "/decode", refused),
        ("GET", "/", page),
        ("GET", "/nowhere", lost),
    ):
        size, request_id = response.headers["content-length"], response.headers["x-request-id"]
        model = ", model mnist/1" if path == "/decode" else ""
        sizes = f"{len(response.request.content)} bytes in, {size} out"
        line = rf"127\.0\.0\.1 {method} {path} {response.status_code}, {sizes}, \d+\.\d ms.*, {request_id}{model}$"
        assert re.search(line, log.text, re.MULTILINE)
    assert "seed" not in log.text


def test_what_a_connection_refuses_is_counted_and_logged_with_its_id(log: Log) -> None:
    with running(log_level="info", log_format="json", client_timeout=0.3) as service:
        requests = (b"nonsense\r\n\r\n", b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n[0,")
        responses = [service.exchange(request) for request in requests]
        log.wait_for('"status":408')
        metrics = service.client.get("/metrics").text
    routes = ((400, "-", "other"), (408, "POST", "/decode"))
    for response, (status, method, route) in zip(responses, routes, strict=True):
        assert response.startswith(b"HTTP/1.1 %d " % status)
        match = re.search(rb"x-request-id: (\S+)\r\n", response)
        assert match
        (line,) = (line for line in log.access_lines if line["status"] == status)
        assert (line["method"], line["route"], line["request_id"]) == (method, route, match[1].decode())
        kind = "other" if method == "-" else method
        model, version = ("mnist", "1") if method == "POST" else ("", "")
        labels = f'media_type="application/problem+json",method="{kind}",model="{model}",route="{route}"'
        assert f'{{{labels},status="{status}",version="{version}"}} 1.0' in metrics


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
