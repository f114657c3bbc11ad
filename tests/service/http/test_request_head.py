"""What RFC 9112 has a server refuse, on a real socket."""

from __future__ import annotations

import pytest

from tests.service.running import Running

REFUSED: dict[bytes, int] = {
    b"GET /livez HTTP/1.1\r\n": 400,
    b"GET /livez HTTP/1.1\r\nhost: a\r\nhost: a\r\n": 400,
    b"GET /livez HTTP/1.0\r\nhost: a\r\nhost: b\r\n": 400,
    **{
        b"GET /livez HTTP/1.1\r\nhost: %b\r\n" % host: 400
        for host in (b"a b", b"a/b", b"a?b", b"a#b", b"a@b", b"[", b"[::1", b"a:b", b"a, b", b"\xe9", b"[x]", b"a\\")
    },
    b"GET /livez HTTP/2.0\r\nhost: a\r\n": 505,
    b"POST /decode HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n": 501,
}


@pytest.mark.parametrize(("head", "status"), REFUSED.items())
def test_requests_that_are_refused(served: Running, head: bytes, status: int) -> None:
    response = served.exchange(head + b"\r\n")
    assert response.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in response


@pytest.mark.parametrize(
    "host",
    [b"a", b"a:80", b"a:", b"", b"127.0.0.1:8000", b"[::1]:80", b"a-b_c.example", b"xn--bcher-kva.example", b"A%20"],
)
def test_hosts(served: Running, host: bytes) -> None:
    request = b"GET /livez HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n" % host
    assert served.exchange(request).startswith(b"HTTP/1.1 200 ")


def test_http_1_0_needs_no_host(served: Running) -> None:
    assert served.exchange(b"GET /livez HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
