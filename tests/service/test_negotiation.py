import pytest

from service import negotiation
from service.errors import NotAcceptable
from service.negotiation import negotiate

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
    """Each caller could fill the memory with them."""
    before = negotiation._remembered.cache_info().currsize
    for number in range(10):
        assert best(f"text/{number}{'x' * 300}", "*/*") == "image/png"
    assert negotiation._remembered.cache_info().currsize == before
