"""OpenTelemetry traces: a span per request, and one per batch, with links to its requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from threading import Thread
from typing import TYPE_CHECKING, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.telemetry.timing import Timing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

CLOSE_LIMIT_S = 5
"""Seconds to send the last spans at a stop; the exporter itself waits half a minute for a silent collector."""


class Tracer:
    """Creates spans; OpenTelemetry's own OTEL_… variables say where it sends them."""

    def __init__(self, version: str) -> None:
        """Raises ImportError if the extra `otel` is not installed."""
        from opentelemetry import propagate, trace  # noqa: PLC0415 - an extra
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        self._extract = propagate.extract
        self._trace = trace
        own = Resource({"service.name": "vae-service", "service.version": version})
        self._provider = TracerProvider(resource=Resource.create(own.merge(OTELResourceDetector().detect()).attributes))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("vae-service", version)

    async def trace_request(self, app: ASGIApp, route: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Run `app` in a span, whose parent is the client's if it sent one (W3C Trace Context)."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            context=self._extract(headers),
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "http.route": route, "url.path": scope["path"]},
        )
        scope["span"] = span

        async def send_and_observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:
                    span.set_status(self._trace.StatusCode.ERROR)
            await send(message)

        try:
            await app(scope, receive, send_and_observe)
        finally:
            span.end()

    def trace_batch(self, operation: str, timings: Sequence[Timing], seconds: float, rows: int) -> None:
        """Record a batch that took `seconds` and ends now."""
        spans = [cast("Span", timing.span) for timing in timings if timing.span is not None]
        ended = time.time_ns()
        span = self._tracer.start_span(
            f"batch {operation}",
            links=[self._trace.Link(span.get_span_context()) for span in spans],
            attributes={"vae.rows": rows, "vae.requests": len(timings)},
            start_time=ended - int(seconds * 1e9),
        )
        span.end(ended)

    async def close(self) -> None:
        """Send the remaining spans, within CLOSE_LIMIT_S."""
        closing = Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_LIMIT_S)
