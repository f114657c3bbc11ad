import time
from contextlib import suppress

import httpx
import pytest

from service.api import negotiation
from service.api.negotiation import negotiate
from service.errors import NotAcceptable
from tests.service.problems import problem

OFFERS = ("image/png", "application/json", "application/x-npy")


def best(*accept: str) -> str:
    return negotiate(", ".join(accept), OFFERS)


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("", "image/png"),
        (" , ", "image/png"),
        ("*/*", "image/png"),
        ("application/*", "application/json"),
        ("application/x-npy", "application/x-npy"),
        ("application/json, image/png", "image/png"),  # equal: the route's own order
        ("image/png;q=0.1, application/json;q=0.2", "application/json"),
        ("*/*;q=0.1, application/x-npy;q=0.2", "application/x-npy"),
        ("image/*;q=0, */*", "application/json"),  # the more specific range counts
        ("application/*;q=0.9, application/json;q=0.1, image/*;q=0.5", "application/x-npy"),
        ("Application/JSON", "application/json"),
        ("image/png ; level=1 ; q=0.2 , application/json ; q=0.3", "application/json"),
        ("application/json;q=1.000;ext=1, */*;q=0.999", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", "image/png"),
    ],
)
def test_gives_what_is_liked_best(accept: str, given: str) -> None:
    assert best(accept) == given


@pytest.mark.parametrize("weight", ["0.2", "0.11", "0.101", "1", "1.", "1.0", "1.000"])
def test_weights(weight: str) -> None:
    assert best("application/x-npy;q=0.1", f"application/json;q={weight}") == "application/json"


@pytest.mark.parametrize("weight", ["0", "0.", "0.0", "0.000"])
def test_a_weight_of_zero(weight: str) -> None:
    assert best(f"image/png;q={weight}", "*/*;q=0.001") == "application/json"


@pytest.mark.parametrize(
    "weight",
    [
        *(
            "nan",
            "NaN",
            "inf",
            "-inf",
            "-1",
            "-0",
            "+1",
            "2",
            "1.1",
            "1.0000",
            "0.1234",
            "1e-1",
            "1_0",
            ".5",
            "",
            "high",
        ),
        *("\u0661", "0.\u0665", " 1", '"1"'),
    ],
)
def test_a_range_with_a_malformed_weight_is_ignored(weight: str) -> None:
    accept = f"image/png;q={weight}"
    assert best(accept, "application/json;q=0.1") == "application/json"
    with pytest.raises(NotAcceptable):
        best(accept)
    assert best(accept, "*/*;q=0.1") == "image/png"  # covered by the other range


def test_many_ranges_are_refused_before_they_are_read(client: httpx.Client) -> None:
    few = ", ".join(["text/html;q=0.5"] * 99 + ["*/*;q=0.1"])
    assert best(few) == "image/png"
    for accept in (f"{few}, */*", "a/b," * 15_000 + "*/*", "*/*" + ";a=b" * 15_000):
        with pytest.raises(NotAcceptable, match="Accept has more than 200 media ranges"):
            best(accept)
        started = time.perf_counter()
        for _ in range(100):
            with suppress(NotAcceptable):
                best(accept)
        assert (time.perf_counter() - started) / 100 < 0.001
        problem(client.get("/model", headers={"accept": accept}), 406)


def test_a_long_header_is_quoted_shortened(client: httpx.Client) -> None:
    answer = client.get("/model", headers={"accept": "x/" + "y" * 60_000})
    assert "application/json" in problem(answer, 406)["detail"]
    assert len(answer.content) < 300


def test_no_header_at_all() -> None:
    assert best() == "image/png"


def test_several_lines_are_one() -> None:
    assert best("text/html", "application/json;q=0.5", "image/png;q=0.4") == "application/json"


@pytest.mark.parametrize("accept", ["text/html", "image/webp", "*/*;q=0", "image/png;q=0", "image/png;q=high", "png"])
def test_says_what_there_is(accept: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        best(accept)
    assert accept in caught.value.detail
    assert all(offer in caught.value.detail for offer in OFFERS)


def test_long_headers_are_not_remembered() -> None:
    """Clients could fill the memory with them."""
    before = negotiation._cached.cache_info().currsize
    for number in range(10):
        assert best(f"text/{number}{'x' * 300}", "*/*") == "image/png"
    assert negotiation._cached.cache_info().currsize == before
