"""Content negotiation: the media type by Accept, gzip or not by Accept-Encoding (RFC 9110, section 12)."""

import re
from functools import lru_cache
from reprlib import Repr

from service.errors import NotAcceptable
from service.formats.registry import missing

MAX_CACHED_CHARACTERS = 256
"""Longest header that is cached: clients could fill the memory with longer ones, which no browser sends."""
MAX_ITEMS = 200
"""Most media ranges and parameters in a header: 100 ranges with a weight each. Browsers send about ten."""
QVALUE = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)
"""RFC 9110, section 12.4.2."""
_SHORTENED = Repr()
_SHORTENED.maxstring = 100  # characters of the header that an error quotes


def negotiate(accept: str, offers: tuple[str, ...]) -> str:
    """Return the best of `offers` for an Accept header; the first of equals.

    A media range with a malformed weight (`q=2`, `q=nan`, `q=0.1234`) is ignored.

    Raises NotAcceptable where no other range covers an offer, or the header has too many ranges.
    """
    return _cached(accept, offers) if len(accept) <= MAX_CACHED_CHARACTERS else _negotiate(accept, offers)


def _negotiate(accept: str, offers: tuple[str, ...]) -> str:
    if not accept.strip(", \t"):
        return offers[0]
    weights = _weights(accept)
    if weights is None:
        raise NotAcceptable(f"Accept has more than {MAX_ITEMS} media ranges and parameters.")
    best = max(offers, key=lambda offer: _quality(offer, weights))  # the first of equals
    if _quality(best, weights) <= 0:
        raise NotAcceptable(
            f"Accept is {_SHORTENED.repr(accept)}; this route can give {', '.join(offers)}.{missing(accept)}"
        )
    return best


_cached = lru_cache(maxsize=1024)(_negotiate)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header weights gzip at least as high as no compression; False for an empty one."""
    weights = _weights(accept_encoding) or {}
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0)))
    return gzip > 0 and gzip >= weights.get("identity", 0)


def _weights(header: str) -> dict[str, float] | None:
    """Return the weight of each item of a header by its lower-case name, or None for too many items."""
    if header.count(",") + header.count(";") >= MAX_ITEMS:
        return None
    weights = {}
    for item in header.split(","):
        name, *parameters = (piece.strip(" \t").lower() for piece in item.split(";"))
        given = next((value for key, _, value in (each.partition("=") for each in parameters) if key == "q"), "1")
        if name and QVALUE.fullmatch(given):
            weights[name] = float(given)
    return weights


def _quality(offer: str, weights: dict[str, float]) -> float:
    """Return the weight of the most specific range that covers `offer`, or 0."""
    for pattern in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        if pattern in weights:
            return weights[pattern]
    return 0
