"""HEAD is answered as GET is, without the body (RFC 9110, section 9.3.2)."""

from __future__ import annotations

import httpx
import pytest
from starlette.routing import Route

from service.telemetry.access_log import AccessLog, AccessRecord
from tests.service.api.test_page import ASSET
from tests.service.problems import problem
from tests.service.running import Running, running
from tests.service.telemetry.test_prometheus import scrape, value

PATHS = [
    *("/", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/static-offline-docs/favicon.png", "/web/spread.json"),
    *("/livez", "/readyz", "/metrics", "/model", "/models", "/latents", "/sample?seed=1&n=3"),
    *("/interpolate?from=0,0,0&to=1,1,1", "/traverse?at=0,0,0&dimensions=0"),
    *("/v2", "/v2/health/live", "/v2/health/ready"),
    *("/v2/models/mnist", "/v2/models/mnist/ready", "/v2/models/mnist/versions/1", "/v2/models/mnist/versions/1/ready"),
]
WRONG = ["/nowhere", "/sample?n=-1", "/model?colour=red", "/v2/nowhere", "/v2/models/other", "/web/nowhere"]
OWN = ("date", "x-request-id", "server-timing")
"""Fields that differ from answer to answer."""


def fields(answer: httpx.Response) -> list[tuple[str, str]]:
    return [(name, value) for name, value in answer.headers.multi_items() if name not in OWN]


@pytest.mark.parametrize("path", PATHS + WRONG)
def test_the_answer_is_that_to_get(client: httpx.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code == (200 if path in PATHS else got.status_code)
    assert head.content == b""
    assert got.content
    if path == "/metrics":  # other counts each time
        assert [name for name, _ in fields(head)] == [name for name, _ in fields(got)]
    else:
        assert fields(head) == fields(got)
    assert int(head.headers["content-length"]) > 0


def test_no_route_that_takes_get_is_left_out(served: Running) -> None:
    taken = {route.path for route in served.app.routes if isinstance(route, Route) and "GET" in (route.methods or ())}
    asked = {path.partition("?")[0] for path in PATHS}
    asked = {path.replace("mnist", "{name}").replace("versions/1", "versions/{version}") for path in asked}
    assert taken <= asked
    files = ASSET.findall(served.client.get("/").text)
    assert all(served.client.head(f"/{path}").status_code == 200 for path in files)


@pytest.mark.parametrize("path", ["/model", "/livez", "/openapi.json", "/nowhere", "/web/spread.json"])
def test_the_body_is_not_sent_and_the_connection_goes_on(served: Running, path: str) -> None:
    head = f"HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\n"
    last = "GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    first, second, body = served.exchange((head + last).encode()).split(b"\r\n\r\n")
    assert b"content-length: " in first
    assert b"transfer-encoding" not in first
    assert second.startswith(b"HTTP/1.1 200 ")
    assert body == b'{"status":"ok"}'


def test_a_media_type_that_cannot_be_given(client: httpx.Client) -> None:
    assert client.head("/model", headers={"accept": "text/html"}).status_code == 406
    for accept in ("application/x-npy", "application/x-ndjson"):
        head = client.head("/latents", headers={"accept": accept})
        assert head.headers["content-type"] == accept


@pytest.mark.parametrize(("path", "allow"), [("/livez", "GET, HEAD"), ("/sample", "GET, HEAD"), ("/docs", "GET, HEAD")])
def test_other_methods_are_told_of_it(client: httpx.Client, path: str, allow: str) -> None:
    answer = client.delete(path)
    assert "GET, HEAD" in problem(answer, 405)["detail"]
    assert answer.headers["allow"] == allow
    assert client.head("/decode").headers["allow"] == "POST"


def test_it_is_counted_as_head_and_logged_with_no_bytes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[AccessRecord] = []
    monkeypatch.setattr(AccessLog, "add", lambda self, exchange: records.append(exchange))
    with running(log_level="info") as service:
        for path in ("/model", "/livez", "/nowhere"):
            service.client.head(path)
        samples = scrape(service.client)
    for route, status, media_type in (
        ("/model", "200", "application/json"),
        ("/livez", "200", "application/json"),
        ("other", "404", "application/problem+json"),
    ):
        labels = {"route": route, "method": "HEAD", "status": status, "media_type": media_type}
        assert value(samples, "vae_requests_total", **labels) == 1
    assert [(each.method, each.bytes_out) for each in records[:3]] == [("HEAD", 0)] * 3


def test_pages_of_other_sites_may_send_it() -> None:
    with running(cors_origins=("https://a.example",)) as service:
        asked = {"access-control-request-method": "HEAD", "access-control-request-headers": "x-api-key"}
        assert service.client.options("/model", headers={"origin": "https://a.example", **asked}).status_code == 200
