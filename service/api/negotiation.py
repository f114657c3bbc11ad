"""Content negotiation: the media type by Accept, gzip or not by Accept-Encoding (RFC 9110, section 12)."""

import re
from functools import lru_cache
from reprlib import Repr

from service.errors import NotAcceptable
from service.formats.registry import missing

CACHED = 256
"""Characters of a header that is cached; longer ones, which no browser sends, would let callers fill the memory."""
MAX_ITEMS = 200
"""Media ranges and their parameters in one header: 100 ranges with a weight each. Browsers send about ten."""
QVALUE = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)
"""RFC 9110, section 12.4.2."""
_SHORTENED = Repr()
_SHORTENED.maxstring = 100  # characters of the header that an error quotes


def negotiate(accept: str, offers: tuple[str, ...]) -> str:
    """The best offer; the first one where the caller has no preference.

    A media range whose weight is malformed (`q=2`, `q=nan`, `q=0.1234`) is ignored, as if it had not been sent.

    Raises NotAcceptable where no offer is covered by what is left of the header, or the header has too many ranges.
    """
    return _cached(accept, offers) if len(accept) <= CACHED else _negotiate(accept, offers)


def _negotiate(accept: str, offers: tuple[str, ...]) -> str:
    if not accept.strip(", \t"):
        return offers[0]
    weights = _weights(accept)
    if weights is None:
        raise NotAcceptable(f"Accept has more than the {MAX_ITEMS} media ranges and parameters that are read.")
    best = max(offers, key=lambda offer: _quality(offer, weights))  # the first of equals
    if _quality(best, weights) <= 0:
        raise NotAcceptable(
            f"Accept is {_SHORTENED.repr(accept)}; this route can give {', '.join(offers)}.{missing(accept)}"
        )
    return best


_cached = lru_cache(maxsize=1024)(_negotiate)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the caller takes gzip, and likes it no less than no compression; not so where there is no header."""
    weights = _weights(accept_encoding) or {}
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0)))
    return gzip > 0 and gzip >= weights.get("identity", 0)


def _weights(header: str) -> dict[str, float] | None:
    """The weight of each item of a list such as Accept's, by its lower-case name; None where there are too many."""
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
    """The weight of the most specific range that covers `offer`; 0 where none does."""
    for pattern in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        if pattern in weights:
            return weights[pattern]
    return 0
