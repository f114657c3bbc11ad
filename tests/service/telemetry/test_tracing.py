"""Spans, as a collector of OpenTelemetry's receives them."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from service.processes.supervisor import STUCK_AFTER_S
from service.telemetry.tracing import CLOSE_LIMIT_S
from tests.service.running import running, wait_until

pytestmark = pytest.mark.slow

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
trace_proto = pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2")

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Received:
    """What a collector has received."""

    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Received]:
    """A collector to which a service in this process sends its spans."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    received = Received()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            request = trace_service.ExportTraceServiceRequest.FromString(body)
            for each in request.resource_spans:
                received.resources.append({pair.key: pair.value.string_value for pair in each.resource.attributes})
                for scope in each.scope_spans:
                    received.spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server.RequestHandlerClass = Handler
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_is_a_span_of_its_callers_trace_and_its_batch_is_linked(collector: Received) -> None:
    with running(tracing=True) as service:
        service.client.get("/sample?seed=1", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        service.client.get("/nowhere")
    by_name = {span.name: span for span in collector.spans}  # sent at the latest when the service stops
    request, batch = by_name["GET /sample"], by_name["batch draw"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    (link,) = batch.links
    assert (link.trace_id, link.span_id) == (request.trace_id, request.span_id)
    assert request.start_time_unix_nano <= batch.start_time_unix_nano <= batch.end_time_unix_nano
    status = {attribute.key: attribute.value for attribute in request.attributes}["http.response.status_code"]
    assert status.int_value == 200
    assert "GET other" in by_name
    assert {resource["service.name"] for resource in collector.resources} == {"vae-service"}


def test_an_answer_of_500_or_more_is_an_error_and_one_below_is_none(collector: Received) -> None:
    late = b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n["
    with running(tracing=True, request_deadline=0.1) as service:
        assert service.client.get("/nowhere").status_code == 404
        assert service.exchange(late).startswith(b"HTTP/1.1 504 ")
    status = {span.name: span.status.code for span in collector.spans}
    kinds = trace_proto.Status
    assert (status["POST /decode"], status["GET other"]) == (kinds.STATUS_CODE_ERROR, kinds.STATUS_CODE_UNSET)


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_SERVICE_NAME", "mine"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine")]
)
def test_opentelemetry_s_variables_name_the_service(
    variable: str, value: str, collector: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with running(tracing=True) as service:
        service.client.get("/sample")
    assert {resource["service.name"] for resource in collector.resources} == {"mine"}


EXIT = """
import asyncio
from service.telemetry.tracing import Tracer
tracer = Tracer("0")
tracer.trace_batch("draw", [], 0.1, 1)
asyncio.run(tracer.close())
"""


def test_a_silent_collector_holds_up_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = threading.enumerate()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with monkeypatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
            patch.setattr("service.telemetry.tracing.CLOSE_LIMIT_S", 0.5)
            with running(tracing=True) as service:
                service.client.get("/sample")
                begun = time.monotonic()
            assert time.monotonic() - begun < 2
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", EXIT], check=True, timeout=60)
        assert CLOSE_LIMIT_S <= time.monotonic() - begun < STUCK_AFTER_S
        wait_until(lambda: set(threading.enumerate()) <= {*threads})
