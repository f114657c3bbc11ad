"""Errors carry the problem document, typed."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from traceback import format_exception

import numpy as np
import pytest

import vae_client
from tests.client.callers import Connect
from tests.client.fake import HANG_UP, MODEL, answer, fake, refused
from tests.live import free_port
from tests.service.running import running
from vae_client import (
    AnswerCut,
    Client,
    ConnectionFailed,
    FieldProblem,
    InvalidInput,
    Refused,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    VAEError,
)


def test_the_problem_document_is_told(connect: Connect, url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        connect(url).ask("traverse", [0, 0, 0], [0, 7], steps=1)
    problem = caught.value.problem
    assert (problem.status, problem.title, problem.type) == (422, HTTPStatus(422).phrase, "about:blank")
    (field,) = problem.errors
    assert (field.place, field.pointer) == ("body", "/steps")
    assert field.detail in problem.detail
    assert problem.detail in str(caught.value)
    assert str(caught.value).startswith("422 ")
    assert isinstance(caught.value, VAEError)


def test_it_goes_between_processes(url: str) -> None:
    with Client(url) as client, pytest.raises(InvalidInput) as caught:
        client.decode([1, 2])
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is InvalidInput
    assert again.problem == caught.value.problem
    assert again.problem.errors[0] == FieldProblem("body", "", again.problem.detail)


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(vae_client).values() if isinstance(kind, type) and issubclass(kind, Refused)]
)
def test_each_status_has_its_type(connect: Connect, kind: type[Refused]) -> None:
    status = getattr(kind, "status", 418)
    with fake((refused(status),)) as server, pytest.raises(Refused) as caught:
        connect(server.url, retries=0).ask("model")
    assert type(caught.value) is kind
    assert caught.value.problem.detail == "Not now."


def test_keys(connect: Connect) -> None:
    with running(api_keys="first,second") as service:
        url = f"http://127.0.0.1:{service.port}"
        assert connect(url, key="second").ask("model").latent_dim == 3
        for wrong in (None, "third"):
            with pytest.raises(Unauthorized):
                connect(url, key=wrong).ask("model")


def test_limits(connect: Connect) -> None:
    with running(body_limit=1000) as service, pytest.raises(TooLarge, match="1000"):
        connect(f"http://127.0.0.1:{service.port}").ask("encode", np.zeros((28, 28), np.float32))


def test_nobody_listens(connect: Connect) -> None:
    with pytest.raises(ConnectionFailed, match="No answer from http"):
        connect(f"http://127.0.0.1:{free_port()}", retries=1).ask("model")


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
def test_no_url_of_a_service(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a service") as caught:
        connect(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost", "https://[::1]:65535/prefix"])
def test_the_url_of_a_service(connect: Connect, url: str) -> None:
    connect(url)


@pytest.mark.parametrize("key", ["hush\nhush", "hush\0", "hüsh hush", "ключ hush", "hush\x7f", " \n"])
def test_a_key_that_no_header_field_can_hold(connect: Connect, key: str) -> None:
    with pytest.raises(ValueError, match="key has other characters than printable ASCII, or none") as caught:
        connect("http://localhost", key=key)
    assert "hush" not in "".join(format_exception(caught.value))


def test_white_space_around_a_key_is_removed(connect: Connect) -> None:
    with fake((MODEL,)) as server:
        connect(server.url, key=" hush\n").ask("model")
    assert "authorization: bearer hush\r\n" in server.seen[0].head.lower()


@pytest.mark.parametrize("answers", [HANG_UP, refused(401), answer(b"{}")], ids=["cut", "refused", "unreadable"])
def test_neither_key_nor_password_is_in_a_text(connect: Connect, answers: bytes | None) -> None:
    with fake((answers,)) as server:
        url = server.url.replace("//", "//user:whisper@")
        with pytest.raises(VAEError) as caught:
            connect(url, key="hush", retries=0).ask("model")
        shown = f"{Client(url, key='hush')!r} {caught.value!r} {''.join(format_exception(caught.value))}"
    assert "whisper" not in shown
    assert "hush" not in shown.replace('key="hush"', "")  # this test's own line


def test_the_page_of_a_gateway(connect: Connect) -> None:
    page = answer(b"<h1>Bad Gateway</h1>" + b"x" * 1000, 502, "text/html")
    with fake((page,)) as server, pytest.raises(Refused, match="502 Bad Gateway: <h1>Bad") as caught:
        connect(server.url).ask("model")
    assert type(caught.value) is Refused
    assert len(caught.value.problem.detail) == 200


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b'{"image_shape": 3}'])
def test_something_else_answers(connect: Connect, body: bytes) -> None:
    with fake((answer(body),)) as server:
        caller = connect(server.url)
        for call in (("model",), ("decode", [0, 0, 0])):
            with pytest.raises(UnexpectedAnswer, match="cannot be read"):
                caller.ask(*call)
    assert len(server.seen) == 2


def test_an_answer_that_breaks_off_is_not_asked_for_again(connect: Connect) -> None:
    with fake((answer(b"x" * 1000)[:-500], HANG_UP)) as server, pytest.raises(AnswerCut):
        connect(server.url).ask("model")
    assert len(server.seen) == 1


def test_retry_after_is_told(connect: Connect) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    for header, low, high in (("7", 7, 7), (later, 95, 100), ("0", 0, 0)):
        with fake((refused(503, retry_after=header),)) as server, pytest.raises(Unavailable) as caught:
            connect(server.url, retries=0).ask("model")
        assert low <= (caught.value.retry_after or 0) <= high


@pytest.mark.parametrize(
    "header",
    ["soon", f"Wed, 25 Nov {10**20} 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "1" * 5000 + ".5", "\xb2"],
)
def test_retry_after_that_cannot_be_read(connect: Connect, header: str) -> None:
    with fake((refused(503, retry_after=header),)) as server, pytest.raises(Unavailable) as caught:
        connect(server.url, retries=0).ask("model")
    assert caught.value.retry_after is None or caught.value.retry_after > 10**9


def test_a_time_out_is_python_s_own_too() -> None:
    assert issubclass(TimedOut, TimeoutError)
