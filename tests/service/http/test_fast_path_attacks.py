"""A request on the fast path gets the same answer as any other, whatever its bytes, and hurts no other request."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from service.http.fast_path import MAX_HEAD, FastRequest
from service.memory_budget import UNCOUNTED
from tests.service.http.wire import receive_all
from tests.service.running import Running, running, wait_until

LATENT = b'{"z":[0.5,0.5,0.5]}'
HEAD = b"POST /decode HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(LATENT)


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with running() as running_service:
        yield running_service


def statuses(port: int, request: bytes, times: int = 3) -> list[int]:
    """Send a request `times` times, each on a connection of its own; return the statuses."""
    found: list[int] = []
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request)
            response = connection.recv(65536)
            found.append(int(response.split(b" ", 2)[1]))
    return found


@pytest.mark.parametrize("field", [b"x-request-id", b"Traceparent"])
@pytest.mark.parametrize("character", [b"\x00", b"\x01", b"\x7f", b"\n", b"\r"])
def test_a_control_character_in_a_field_that_varies_is_refused(
    service: Running, field: bytes, character: bytes
) -> None:
    known = HEAD + field + b": a\r\n\r\n" + LATENT
    assert statuses(service.port, known) == [200, 200, 200]
    assert statuses(service.port, known.replace(b": a\r", b": a%bb\r" % character)) == [400, 400, 400]


def test_a_field_before_the_request_line_is_refused(service: Running) -> None:
    request = b"\r\n%b\r\n%b" % (HEAD, LATENT)
    assert statuses(service.port, request) == [200, 200, 200]
    assert statuses(service.port, b"\r\nx-request-id: a" + request) == [400, 400, 400]


def test_a_continued_line_is_refused(service: Running) -> None:
    request = HEAD + b"accept: image/png\r\nx-request-id: a\r\n ;q=0\r\n\r\n" + LATENT
    assert statuses(service.port, request) == [400, 400, 400]


def test_fields_that_vary_count_towards_the_limits_of_a_head(service: Running) -> None:
    many = b"".join(b"f%d: 1\r\n" % number for number in range(97))
    assert statuses(service.port, HEAD + many + b"\r\n" + LATENT) == [200, 200, 200]
    assert statuses(service.port, HEAD + many + b"x-request-id: a\r\n\r\n" + LATENT) == [431, 431, 431]
    assert statuses(service.port, HEAD + b"x-request-id: %b\r\n\r\n" % (b"a" * 70_000) + LATENT) == [431, 431, 431]


def test_a_long_head_is_answered_as_any_other(service: Running) -> None:
    request = HEAD + b"x-request-id: %b\r\n\r\n" % (b"a" * MAX_HEAD) + LATENT
    assert statuses(service.port, request) == [200, 200, 200]


def test_a_picture_over_the_limit_of_pixels_is_refused_as_json_too() -> None:
    with running(image_pixel_limit=100) as service:
        assert statuses(service.port, HEAD + b"accept: application/json\r\n\r\n" + LATENT) == [413, 413, 413]


def test_a_failure_while_a_body_is_read_frees_its_place(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    request = HEAD + b"a: read\r\n\r\n" + LATENT

    def fail(*_: Any, **__: Any) -> None:
        raise ArithmeticError

    assert statuses(service.port, request) == [200, 200, 200]
    with monkeypatch.context() as patch:
        patch.setattr("service.api.small_operations.latents_of_json", fail)
        assert statuses(service.port, request) == [200, 200, 200]
    assert service.admission.confirmed == 0


class Held(FastRequest):
    """A plan and its only request, which the test answers."""

    content_length = len(LATENT)
    keep_alive = True
    client: Any = None

    def begin(self, client: Any, *_: Any) -> FastRequest:
        self.client = client
        return self

    def cancel(self) -> None: ...


def test_a_request_that_is_parsed_again_after_an_error_is_the_last_one() -> None:
    held = Held()
    with running() as service:
        service.state["fast_path"]._plan = lambda _: held
        memory = service.state["memory"]
        request = HEAD + b"\r\n" + LATENT
        assert statuses(service.port, request, times=1) == [200]
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(request)
            wait_until(lambda: held.client is not None)
            memory.adjust(memory.limit)
            held.client._loop.call_soon_threadsafe(held.client.data_received, bytes(2 * UNCOUNTED))
            wait_until(lambda: held.client._error is not None)
            held.client._loop.call_soon_threadsafe(held.client.parse_again, request)
            assert receive_all(connection).startswith(b"HTTP/1.1 503 ")
            memory.adjust(-memory.limit)
