"""ETag and If-None-Match (RFC 9110, sections 8.8.3 and 13.1.2): 304 for what the client has, without computing it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import vae
from service.api import etags
from service.settings import BUNDLED
from tests.service.problems import problem
from tests.service.running import Running, Stalled, running, wait_until
from tests.service.telemetry.test_prometheus import scrape, value
from vae.latents import LatentSet

pytestmark = pytest.mark.slow

JSON, NPY = "application/json", "application/x-npy"
TAG = re.compile(r'W/"[0-9a-f]{32}"')
INTERPOLATE, TRAVERSE = "/interpolate?from=-1,0,1&to=1,1,0", "/traverse?at=0,0,0&dimensions=0"
PATHS = ["/model", "/latents", "/sample?seed=7", INTERPOLATE, TRAVERSE]
KEY = {"x-api-key": "key"}


def tag(client: httpx.Client, path: str, **headers: str) -> str:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200
    found = answer.headers["etag"]
    assert TAG.fullmatch(found)
    return str(found)


def ask(client: httpx.Client, path: str, if_none_match: str, **headers: str) -> httpx.Response:
    return client.get(path, headers={"if-none-match": if_none_match, **headers})


@pytest.mark.parametrize(
    "paths",
    [
        *([path, path] for path in PATHS),
        ["/sample?seed=7", "/sample?n=1&seed=7", "/sample?seed=7&temperature=1.0&scale=1"],
        [INTERPOLATE, "/interpolate?steps=8&to=1.0,1,0&from=-1,0,1e0&method=linear"],
        [TRAVERSE, "/traverse?at=0,0.0,0&dimensions=0&low=-3&high=3&steps=15"],
    ],
)
def test_equal_requests_have_one_tag(client: httpx.Client, paths: list[str]) -> None:
    assert (
        len(
            {
                tag(client, path, accept=accept)
                for path in paths
                for accept in ("application/json", "text/html, application/json;q=0.5")
            }
        )
        == 1
    )


def test_other_requests_have_other_tags(client: httpx.Client) -> None:
    paths = [
        *PATHS,
        *(f"/sample?{query}" for query in ("seed=8", "seed=7&n=2", "seed=7&temperature=0.5", "seed=7&scale=2")),
        *(f"{INTERPOLATE}&{query}" for query in ("steps=9", "method=spherical", "columns=2")),
        "/interpolate?from=1,1,0&to=-1,0,1",
        *(f"{TRAVERSE}{query}" for query in (",1", "&low=-2", "&high=2", "&steps=9")),
        "/traverse?at=0,0,1&dimensions=0",
    ]
    assert len({tag(client, path) for path in paths}) == len(paths)
    for path in PATHS[1:]:
        assert len({tag(client, path, accept=accept) for accept in (JSON, NPY, "application/x-safetensors")}) == 3


def tags(checkpoint: Path = BUNDLED) -> dict[str, str]:
    with running(checkpoint=checkpoint) as service:
        return {path: tag(service.client, path) for path in PATHS if service.client.get(path).status_code == 200}


def test_a_tag_is_of_one_model_and_one_version(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {path: tag(client, path) for path in PATHS}
    assert tags() == first
    checkpoint = tmp_path / BUNDLED.name
    vae.save(checkpoint, vae.VAE(vae.VAEConfig(hidden_dim=8)), training={}, metrics={})
    others = tags(checkpoint)
    assert others.keys() == first.keys() - {"/latents"}
    assert not set(others.values()) & set(first.values())
    checkpoint.write_bytes(BUNDLED.read_bytes())
    stored = LatentSet.load(BUNDLED, vae.load(BUNDLED).sha256)
    assert stored
    LatentSet(stored.mean[1:], stored.label[1:]).save(checkpoint, vae.load(BUNDLED).sha256)
    assert tags(checkpoint)["/latents"] != first["/latents"]
    monkeypatch.setattr(etags, "VERSION", "99.0")
    assert not set(tags().values()) & set(first.values())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_304_has_the_fields_of_200_and_no_content(client: httpx.Client, path: str, method: str) -> None:
    answer = client.get(path)
    again = client.request(method, path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for name in ("etag", "vary", "cache-control"):
        assert again.headers.get_list(name) == answer.headers.get_list(name) != []
    assert again.headers.keys() == {"date", "server", "x-request-id", "etag", "vary", "cache-control"}


def test_the_connection_goes_on_after_304(served: Running) -> None:
    first = b"GET /model HTTP/1.1\r\nhost: a\r\nif-none-match:  * \r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    one, two, body = served.exchange(first + last).split(b"\r\n\r\n")
    assert one.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    assert two.startswith(b"HTTP/1.1 200 ")
    assert body == b'{"status":"ok"}'


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ("*", 304),
        ("TAG", 304),
        ('"a", W/"b,c" ,TAG', 304),
        ('TAG,"a"', 304),
        ("OPAQUE", 304),  # weak comparison
        ('"a", OPAQUE', 304),
        ('W/"a", "b"', 200),
        ("", 200),
        ('"*"', 200),
        ('*, "a"', 200),
        ("UNQUOTED", 200),
        ('"x-UNQUOTED"', 200),
        ('"UNQUOTED-gzip"', 200),
    ],
)
def test_lists_and_weak_tags(client: httpx.Client, field: str, status: int) -> None:
    own = tag(client, "/sample?seed=7")
    opaque = own.removeprefix("W/")
    given = field.replace("UNQUOTED", opaque.strip('"')).replace("OPAQUE", opaque).replace("TAG", own)
    assert ask(client, "/sample?seed=7", given).status_code == status


def test_it_is_an_answer_to_one_accept_header_alone(client: httpx.Client) -> None:
    own = tag(client, "/latents", accept=JSON)
    assert ask(client, "/latents", own, accept=JSON).status_code == 304
    assert ask(client, "/latents", own, accept=NPY).status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "zstd", "identity"])
def test_codings_do_not_matter_to_what_has_none(client: httpx.Client, coding: str) -> None:
    answer = client.get("/latents", headers={"accept-encoding": coding})
    assert "content-encoding" not in answer.headers
    assert answer.headers["etag"] == tag(client, "/latents")


def test_nothing_is_computed_and_no_place_is_taken() -> None:
    with running(queue_limit=1) as service, ThreadPoolExecutor() as pool:
        client = service.client
        known = {path: tag(client, path) for path in PATHS}
        before = scrape(client)
        engine = Stalled(service.context.engine)
        service.swap_engine(lambda _: engine)
        try:
            waiting = pool.submit(client.post, "/decode", json=[0, 0, 0])
            wait_until(lambda: service.admission.confirmed == 1)
            for path, own in known.items():
                assert problem(client.get(path), 503)
                assert ask(client, path, own).status_code == ask(client, path, "*").status_code == 304
            after = scrape(client)
        finally:
            engine.released.set()
        assert waiting.result().status_code == 200
    for (name, labels), count in after.items():
        if name.startswith("vae_batch"):
            assert count == before.get((name, labels), 0)
    counted = {"route": "/sample", "method": "GET", "status": "304", "media_type": ""}
    assert value(after, "vae_requests_total", **counted) == 2


def test_random_samples_and_post_have_none(client: httpx.Client) -> None:
    body = {"from": [0, 0, 0], "to": [1, 1, 1]}
    for answer in (ask(client, "/sample", "*"), client.post("/interpolate", json=body, headers={"if-none-match": "*"})):
        assert answer.status_code == 200
        assert "etag" not in answer.headers
        assert "cache-control" not in answer.headers


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        *((path, "text/html", 406) for path in PATHS),
        *((f"{path}{'&' if '?' in path else '?'}colour=red", "*/*", 422) for path in PATHS),
        ("/sample?seed=7&n=10001", "*/*", 413),
        ("/sample?seed=7&n=10000&scale=64", "*/*", 413),
        (f"{INTERPOLATE}&steps=10001", "*/*", 413),
        (f"{INTERPOLATE},0", "*/*", 422),
        (f"{TRAVERSE},1&steps=101", "*/*", 413),
        (f"{TRAVERSE},0", "*/*", 422),
    ],
)
def test_errors_have_none_and_are_answered_first(client: httpx.Client, path: str, accept: str, status: int) -> None:
    """A precondition is evaluated only where the response would else be a success (RFC 9110, section 13.2.1)."""
    for answer in (client.get(path, headers={"accept": accept}), ask(client, path, "*", accept=accept)):
        problem(answer, status)
        assert "etag" not in answer.headers
        assert "cache-control" not in answer.headers


def test_a_checkpoint_without_latents(tmp_path: Path) -> None:
    (tmp_path / "alone.safetensors").write_bytes(BUNDLED.read_bytes())
    with running(checkpoint=tmp_path / "alone.safetensors") as service:
        problem(ask(service.client, "/latents", "*"), 404)


def test_with_keys_only_the_client_s_own_cache_stores_it_and_the_key_is_checked_each_time() -> None:
    with running(api_keys=("key",)) as service:
        client = service.client
        for path in PATHS:
            answer = client.get(path, headers=KEY)
            again = ask(client, path, answer.headers["etag"], **KEY)
            assert again.status_code == 304
            for each in (answer, again):
                assert each.headers.get_list("cache-control") == ["private, no-cache"]
            for refused in (
                ask(client, path, answer.headers["etag"]),
                ask(client, path, "*", **{"x-api-key": "other"}),
            ):
                problem(refused, 401)
                assert "etag" not in refused.headers
                assert refused.headers.get_list("cache-control") == ["no-store"]
        assert client.get("/sample", headers=KEY).headers.get_list("cache-control") == ["no-store"]


def test_pages_of_other_sites_may_revalidate() -> None:
    with running(cors_origins=("https://a.example",)) as service:
        asked = {"access-control-request-method": "GET", "access-control-request-headers": "if-none-match"}
        assert service.client.options("/model", headers={"origin": "https://a.example", **asked}).status_code == 200
        for wanted in ("*", '"a"'):
            answer = ask(service.client, "/model", wanted, origin="https://a.example")
            assert "etag" in answer.headers["access-control-expose-headers"].split(", ")
            assert answer.headers["vary"] == "accept, Origin"
