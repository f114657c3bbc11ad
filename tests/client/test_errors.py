"""Each failure raises its class of `vae_client.errors`."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from traceback import format_exception

import numpy as np
import pytest

import vae_client
from tests.client.clients import Connect
from tests.client.fake_server import CLOSE, MODEL, error_response, fake_server, response
from tests.live import free_port
from tests.service.running import running
from vae_client import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    Client,
    FieldProblem,
    IncompleteResponseError,
    RequestTooLargeError,
    ServiceUnavailableError,
    UnprocessableEntityError,
)


@pytest.fixture(scope="module")
def restricted_url() -> Iterator[str]:
    """A service with two API keys that accepts bodies of at most 1,000 bytes."""
    with running(api_keys="first,second", body_limit=1000) as service:
        yield f"http://127.0.0.1:{service.port}"


def test_the_problem_document_is_parsed(connect: Connect, url: str) -> None:
    with pytest.raises(UnprocessableEntityError) as caught:
        connect(url).call("traverse", [0, 0, 0], [0, 7], steps=1)
    problem = caught.value.problem
    assert (problem.status, problem.title, problem.type) == (422, HTTPStatus(422).phrase, "about:blank")
    (field,) = problem.errors
    assert (field.place, field.pointer) == ("body", "/steps")
    assert field.detail in problem.detail
    assert problem.detail in str(caught.value)
    assert str(caught.value).startswith("422 ")
    assert isinstance(caught.value, APIError)


def test_the_error_has_the_response(connect: Connect, url: str) -> None:
    with pytest.raises(APIStatusError) as caught:
        connect(url, api_key="hush").call("decode", [1, 2])
    error = caught.value
    assert (error.status_code, error.response.status_code) == (422, 422)
    assert error.request_id == error.response.headers["x-request-id"]
    assert error.response.json()["detail"] == error.problem.detail
    assert error.response.url == f"{url}/decode"
    assert "authorization" not in error.response.request.headers
    assert error.response.request.content == b""


def test_a_compressed_response_is_decoded(connect: Connect) -> None:
    head, _, body = error_response(503).partition(b"\r\n\r\n")
    fields = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length")]
    compressed = gzip.compress(body)
    fields += [b"content-encoding: gzip", f"content-length: {len(compressed)}".encode()]
    script = (b"\r\n".join(fields) + b"\r\n\r\n" + compressed,)
    with fake_server(script) as server, pytest.raises(ServiceUnavailableError, match="Not now") as caught:
        connect(server.url, max_retries=0).call("model")
    assert caught.value.response.json()["status"] == 503


def test_a_response_without_its_content_encoding(connect: Connect) -> None:
    script = (response(b"not gzip", content_encoding="gzip"),)
    with fake_server(script) as server, pytest.raises(APIResponseValidationError, match="content encoding"):
        connect(server.url).call("model")


def test_errors_can_be_pickled(url: str) -> None:
    with Client(url) as client, pytest.raises(UnprocessableEntityError) as caught:
        client.decode([1, 2])
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is UnprocessableEntityError
    assert again.problem == caught.value.problem
    assert again.problem.errors[0] == FieldProblem("body", "", again.problem.detail)
    assert again.request_id == caught.value.request_id
    assert again.response.content == caught.value.response.content


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(vae_client).values() if isinstance(kind, type) and issubclass(kind, APIStatusError)]
)
def test_each_status_has_its_class(connect: Connect, kind: type[APIStatusError]) -> None:
    status = getattr(kind, "status_code", 418)
    with fake_server((error_response(status),)) as server, pytest.raises(APIStatusError) as caught:
        connect(server.url, max_retries=0).call("model")
    assert type(caught.value) is kind
    assert caught.value.status_code == status
    assert caught.value.problem.detail == "Not now."
    assert caught.value.request_id is None


OLD_NAMES = {
    "AnswerCut": "IncompleteResponseError",
    "ConnectionFailed": "APIConnectionError",
    "DeadlineExceeded": "GatewayTimeoutError",
    "InternalError": "InternalServerError",
    "InvalidInput": "UnprocessableEntityError",
    "NotAcceptable": "NotAcceptableError",
    "NotFound": "NotFoundError",
    "Refused": "APIStatusError",
    "ShareExceeded": "RateLimitError",
    "SlowCaller": "RequestTimeoutError",
    "TimedOut": "APITimeoutError",
    "TooLarge": "RequestTooLargeError",
    "Unauthorized": "AuthenticationError",
    "Unavailable": "ServiceUnavailableError",
    "UnexpectedAnswer": "APIResponseValidationError",
    "UnreadableBody": "BadRequestError",
    "UnsupportedMediaType": "UnsupportedMediaTypeError",
    "VAEError": "APIError",
}


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_old_names_are_deprecated_aliases(old: str, new: str) -> None:
    for module in (vae_client, vae_client.errors):
        with pytest.warns(DeprecationWarning, match=f"vae_client.{old} is now {new}; .* removed in version") as warned:
            assert getattr(module, old) is getattr(vae_client, new)
        assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=old):
        exec(f"from vae_client import {old}")


def test_the_old_name_of_status_code_is_deprecated(connect: Connect) -> None:
    with fake_server((error_response(404),)) as server, pytest.raises(APIStatusError) as caught:
        connect(server.url).call("model")
    with pytest.warns(DeprecationWarning, match="status is now status_code; .* removed in version") as warned:
        assert caught.value.status == 404
    assert warned[0].filename == __file__


def test_other_names_do_not_exist() -> None:
    assert not hasattr(vae_client, "Nothing")
    with pytest.raises(ImportError, match="Nothing"):
        exec("from vae_client.errors import Nothing")


def test_keys(connect: Connect, restricted_url: str) -> None:
    assert connect(restricted_url, api_key="second").call("model").latent_dim == 3
    for wrong in (None, "third"):
        with pytest.raises(AuthenticationError):
            connect(restricted_url, api_key=wrong).call("model")


def test_limits(connect: Connect, restricted_url: str) -> None:
    with pytest.raises(RequestTooLargeError, match="1000"):
        connect(restricted_url, api_key="first").call("encode", np.zeros((28, 28), np.float32))


def test_no_server(connect: Connect) -> None:
    with pytest.raises(APIConnectionError, match="No response from http"):
        connect(f"http://127.0.0.1:{free_port()}", max_retries=1).call("model")


BAD_URLS = [
    "localhost:8000",
    "ftp://localhost",
    "",
    "localhost",
    "http://",
    "http://[::1",
    "http://localhost:99999",
    "http://localhost:0",
    "http://localhost:eighty",
    "http://local host",
    "http://localhost\n",
    "http://user:hush@localhost:99999",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_invalid_url(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a service") as caught:
        connect(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost", "https://[::1]:65535/prefix"])
def test_valid_url(connect: Connect, url: str) -> None:
    connect(url)


@pytest.mark.parametrize("key", ["hush\nhush", "hush\0", "hüsh hush", "ключ hush", "hush\x7f", " \n"])
def test_invalid_key(connect: Connect, key: str) -> None:
    with pytest.raises(ValueError, match="api_key must be printable ASCII, and not empty") as caught:
        connect("http://localhost", api_key=key)
    assert "hush" not in "".join(format_exception(caught.value))


def test_white_space_around_a_key_is_removed(connect: Connect) -> None:
    with fake_server((MODEL,)) as server:
        connect(server.url, api_key=" hush\n").call("model")
    assert "authorization: bearer hush\r\n" in server.requests[0].head.lower()


@pytest.mark.parametrize(
    "step", [CLOSE, error_response(401), response(b"{}")], ids=["closed", "error response", "invalid response"]
)
def test_errors_show_neither_key_nor_password(connect: Connect, step: bytes | None) -> None:
    with fake_server((step,)) as server:
        url = server.url.replace("//", "//user:whisper@")
        with pytest.raises(APIError) as caught:
            connect(url, api_key="hush", max_retries=0).call("model")
        shown = f"{Client(url, api_key='hush')!r} {caught.value!r} {''.join(format_exception(caught.value))}"
    assert "whisper" not in shown
    assert "hush" not in shown.replace('key="hush"', "")  # the line above, in the traceback
    if isinstance(caught.value, APIStatusError):
        assert "whisper" not in str(caught.value.response.url)
        assert b"hush" not in pickle.dumps(caught.value)


def test_the_page_of_a_gateway(connect: Connect) -> None:
    page = response(b"<h1>Bad Gateway</h1>" + b"x" * 1000, 502, "text/html")
    with fake_server((page,)) as server, pytest.raises(APIStatusError, match="502 Bad Gateway: <h1>Bad") as caught:
        connect(server.url).call("model")
    assert type(caught.value) is APIStatusError
    assert caught.value.status_code == 502
    assert len(caught.value.problem.detail) == 200


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b'{"image_shape": 3}'])
def test_the_response_of_another_service(connect: Connect, body: bytes) -> None:
    with fake_server((response(body),)) as server:
        client = connect(server.url)
        for call in (("model",), ("decode", [0, 0, 0])):
            with pytest.raises(APIResponseValidationError, match="cannot be parsed"):
                client.call(*call)
    assert len(server.requests) == 2


def test_an_incomplete_response_is_not_retried(connect: Connect) -> None:
    with fake_server((response(b"x" * 1000)[:-500], CLOSE)) as server, pytest.raises(IncompleteResponseError):
        connect(server.url).call("model")
    assert len(server.requests) == 1


def test_retry_after(connect: Connect) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    for header, low, high in (("7", 7, 7), (later, 95, 100), ("0", 0, 0)):
        script = (error_response(503, retry_after=header),)
        with fake_server(script) as server, pytest.raises(ServiceUnavailableError) as caught:
            connect(server.url, max_retries=0).call("model")
        assert low <= (caught.value.retry_after or 0) <= high


@pytest.mark.parametrize(
    "header",
    ["soon", f"Wed, 25 Nov {10**20} 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "1" * 5000 + ".5", "\xb2"],
)
def test_invalid_retry_after(connect: Connect, header: str) -> None:
    script = (error_response(503, retry_after=header),)
    with fake_server(script) as server, pytest.raises(ServiceUnavailableError) as caught:
        connect(server.url, max_retries=0).call("model")
    assert caught.value.retry_after is None or caught.value.retry_after > 10**9


def test_a_timeout_is_also_a_timeout_error() -> None:
    assert issubclass(APITimeoutError, TimeoutError)
