"""Spans, as a collector of OpenTelemetry's receives them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.live import live_server

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An address, and the spans that have been sent there."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            request = trace_service.ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_is_a_span_of_its_callers_trace_and_its_batch_is_linked(collector: tuple[str, list[Any]]) -> None:
    address, spans = collector
    environment = {"VAE_TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": address}
    with live_server(environment=environment) as server:
        server.get("/sample?seed=1", traceparent=f"00-{TRACE}-{PARENT}-01")
        server.get("/nowhere")
    by_name = {span.name: span for span in spans}  # sent at the latest when the service ends
    request, batch = by_name["GET /sample"], by_name["batch draw"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    (link,) = batch.links
    assert (link.trace_id, link.span_id) == (request.trace_id, request.span_id)
    assert request.start_time_unix_nano <= batch.start_time_unix_nano <= batch.end_time_unix_nano
    status = {attribute.key: attribute.value for attribute in request.attributes}["http.response.status_code"]
    assert status.int_value == 200
    assert "GET other" in by_name
