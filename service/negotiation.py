"""Which of the media types that a route offers the caller's Accept header asks for (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence
from functools import lru_cache

from service.errors import NotAcceptable
from service.formats import missing

CACHED = 256
"""Letters of a header that is remembered; what no browser sends shall not fill the memory."""


def negotiate(accept: str, offers: tuple[str, ...]) -> str:
    """The best offer; the first one where the caller has no preference. Raises NotAcceptable."""
    return _remembered(accept, offers) if len(accept) <= CACHED else _negotiate(accept, offers)


def _negotiate(accept: str, offers: tuple[str, ...]) -> str:
    ranges = [_parse(part) for part in accept.split(",") if part.strip()]
    if not ranges:
        return offers[0]
    best = max(offers, key=lambda offer: _quality(offer, ranges))  # the first of equals
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(f"Accept is {accept!r}; this route can give {', '.join(offers)}.{missing(accept)}")
    return best


_remembered = lru_cache(maxsize=1024)(_negotiate)


def _parse(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return media_range, float(value)
            except ValueError:
                return media_range, 0
    return media_range, 1


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality of the most specific range that covers `offer`; 0 where none does."""
    qualities = dict(ranges)
    for pattern in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        if pattern in qualities:
            return qualities[pattern]
    return 0
