"""Arguments of the clients, their defaults in the environment, their old names, and `with_options`."""

from __future__ import annotations

import platform
from traceback import format_exception
from typing import Any

import httpx
import pytest

import vae_client
from tests.client.clients import AnyClient, Connect
from tests.client.fake_server import MODEL, FakeServer, error_response, fake_server
from vae_client import AsyncClient, Client, ServiceUnavailableError


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No options from the environment."""
    monkeypatch.delenv("VAE_BASE_URL", raising=False)
    monkeypatch.delenv("VAE_API_KEY", raising=False)


def header(server: FakeServer, name: str) -> str | None:
    """Header of the last request."""
    fields = dict(line.split(": ", 1) for line in server.requests[-1].head.splitlines()[1:])
    return {key.lower(): value for key, value in fields.items()}.get(name)


def path(server: FakeServer) -> str:
    """Path of the last request."""
    return server.requests[-1].head.split()[1]


def test_the_environment_has_url_and_key(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_server((MODEL,)) as server:
        monkeypatch.setenv("VAE_BASE_URL", server.url)
        connect().call("model")
        assert header(server, "authorization") is None
        monkeypatch.setenv("VAE_API_KEY", "hush")
        connect().call("model")
        assert header(server, "authorization") == "Bearer hush"


def test_arguments_override_the_environment(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_BASE_URL", "http://localhost:1")
    monkeypatch.setenv("VAE_API_KEY", "hush")
    with fake_server((MODEL,)) as server:
        connect(server.url, api_key="other").call("model")
        assert header(server, "authorization") == "Bearer other"
        connect(server.url, api_key="").call("model")
        assert header(server, "authorization") is None


def test_the_url_is_missing(connect: Connect) -> None:
    with pytest.raises(ValueError, match="pass base_url or set VAE_BASE_URL"):
        connect()


@pytest.mark.parametrize("kind", [str, httpx.URL])
@pytest.mark.parametrize("end", ["", "/"])
def test_the_url_has_a_path(connect: Connect, kind: Any, end: str) -> None:
    with fake_server((MODEL,)) as server:
        connect(kind(f"{server.url}/a%20b{end}")).call("model")
    assert path(server) == "/a%20b/model"


def test_user_agent(connect: Connect) -> None:
    with fake_server((MODEL,)) as server:
        connect(server.url).call("model")
    agent = f"vae-client/{vae_client.__version__} httpx/{httpx.__version__} Python/{platform.python_version()}"
    assert header(server, "user-agent") == agent


def test_default_headers(connect: Connect) -> None:
    headers = {"user-agent": "mine/1", "X-Tag": "a", "accept": "text/plain"}
    with fake_server((MODEL,)) as server:
        connect(server.url, default_headers=headers).call("model")
    assert header(server, "user-agent") == "mine/1"
    assert header(server, "x-tag") == "a"
    assert header(server, "accept") == "application/json"  # a call's own


@pytest.mark.parametrize("value", ["hush\nx: y", "hüsh", "hush\0"])
def test_invalid_default_headers(connect: Connect, value: str) -> None:
    with pytest.raises(ValueError, match="The value of the header 'x-tag' in default_headers must be") as caught:
        connect("http://localhost", default_headers={"x-tag": value})
    assert "hush" not in "".join(format_exception(caught.value))


def test_http_client(connect: Connect) -> None:
    """It sends the requests, is limited by the options and closed with the client."""
    with fake_server((MODEL,)) as server:
        kind: Any = type(connect(server.url))
        http_client = kind.http_class(headers={"x-tag": "a"}, timeout=1e-6, trust_env=False)
        client: AnyClient = kind(server.url, http_client=http_client)
        assert client.call("model").name == "fake"
        assert header(server, "x-tag") == "a"
        client.close()
    assert http_client.is_closed


def test_with_options_changes_a_copy(connect: Connect) -> None:
    with fake_server((error_response(503),), (error_response(503),), (MODEL,)) as server:
        client = connect("http://localhost:1", api_key="first", default_headers={"x-a": "1", "x-b": "1"}, max_retries=1)
        other = client.with_options(
            base_url=f"{server.url}/other", api_key="second", default_headers={"X-B": "2"}, max_retries=0
        )
        with pytest.raises(ServiceUnavailableError):
            other.call("model")
        assert len(server.requests) == 1
        assert path(server) == "/other/model"
        assert header(server, "authorization") == "Bearer second"
        assert [header(server, name) for name in ("x-a", "x-b")] == ["1", "2"]
        client.with_options(base_url=server.url).call("model")
        assert path(server) == "/model"
        assert header(server, "authorization") == "Bearer first"
        assert [header(server, name) for name in ("x-a", "x-b")] == ["1", "1"]
    assert len(server.requests) == 3


def test_with_options_shares_the_connections(connect: Connect) -> None:
    with fake_server((MODEL,)) as server:
        client = connect(server.url)
        client.call("model")
        client.with_options(timeout=None).call("model")
        client.call("model")
    assert [request.connection for request in server.requests] == [0, 0, 0]


@pytest.mark.parametrize("create", [Client, AsyncClient])
def test_unknown_options(create: Any) -> None:
    with pytest.raises(TypeError, match="no option 'password'"):
        create("http://localhost", password="hush")
    with pytest.raises(TypeError, match="password"):
        create("http://localhost").with_options(password="hush")


@pytest.mark.parametrize("create", [Client, AsyncClient])
def test_old_names_of_options_are_deprecated(create: Any) -> None:
    with pytest.warns(DeprecationWarning, match="removed in version 0.2") as warned:
        client = create(url="http://localhost/old", key="hush", retries=2)
    assert {str(each.message).partition(";")[0] for each in warned} == {
        "The option url is now base_url",
        "The option key is now api_key",
        "The option retries is now max_retries",
    }
    assert {each.filename for each in warned} == {__file__}
    assert (client._options.base_url, client._options.api_key) == ("http://localhost/old", "hush")
    assert client._options.max_retries == 2
