"""What the attacks have in common: requests with a name, and how they are written."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tests.soak import hostile_images
from tests.soak.client import write_request
from tests.zstandard import zstd

SIZE = 31_000_000
"""Bytes of a large body, just below the default limit of 32 MiB."""
KEPT_BYTES = 2**18
"""Most bytes of a request that is kept after it is built."""
ANSWERED = frozenset({200, 204, 400, 404, 405, 406, 408, 411, 413, 414, 415, 422, 429, 431, 501, 503, 505})
"""Accepted statuses where the right one is not known: no 5xx but 503, and those of HTTP that is not supported."""
OK = frozenset({200, 503})
REFUSED = frozenset({400, 413, 415, 422, 503})
Z = b"[0.1, -0.2, 0.3]"
NDJSON, SAFETENSORS = "application/x-ndjson", "application/x-safetensors"
ARROW, FORM = "application/vnd.apache.arrow.stream", "multipart/form-data"
TENSOR, BASE64 = "tensor/binary", "tensor/base64"
INFER = "/v2/models/mnist/infer"
IMAGE_TARGETS = ("/encode", "/reconstruct", "/score", "/remote/encode")
Make = Callable[[], bytes]


class Attack(NamedTuple):
    """A request, or several pipelined ones."""

    name: str
    make: Make
    statuses: frozenset[int] = ANSWERED
    """Accepted statuses of each response."""
    answers: int = 1
    """Required responses; the service may close the connection after them."""
    times: int = 1
    """Connections that send it at once in a flood."""
    framed: bool = True
    """Can the service know its end? If not, it may wait for more and then disconnect."""
    is_head: bool = False
    """Is it a HEAD request, whose response has no body?"""
    brief: bool = False
    """Is it sent in a short run?"""

    @property
    def data(self) -> bytes:
        """The bytes to send; small requests are built once."""
        if (kept := _kept.get(self.name)) is not None:
            return kept
        data = self.make()
        if len(data) <= KEPT_BYTES:
            _kept[self.name] = data
        return data


_kept: dict[str, bytes] = {}


def post(target: str, body: bytes, content_type: str, accept: str = "*/*", **fields: str) -> bytes:
    return write_request("POST", target, body, content_type=content_type, accept=accept, **fields)


def sent(target: str, body: Make, content_type: str, coding: str = "", **fields: str) -> bytes:
    """A POST whose body is built now and compressed if there is a `coding`."""
    data = body()
    if coding:
        data = COMPRESS[coding](data)
        fields["content_encoding"] = coding.partition(" ")[0]
    return post(target, data, content_type, **fields)


def _gzip_members(data: bytes) -> bytes:
    """Compress `data` as thousands of gzip members."""
    size = max(1, len(data) // 9000)
    pieces = {start: data[start : start + size] for start in range(0, len(data), size)}
    packed: dict[bytes, bytes] = {}
    for piece in pieces.values():
        if piece not in packed:
            packed[piece] = gzip.compress(piece, 1, mtime=0)
    return b"".join(packed[piece] for piece in pieces.values())


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, compresslevel=6, mtime=0),
    "deflate": partial(zlib.compress, level=6),
    "zstd": zstd.compress,
    "gzip in thousands of members": _gzip_members,
}


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"soak", preamble: bytes = b"") -> bytes:
    """A multipart body of parts, each a head and its content."""
    body = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, content) for head, content in parts)
    return preamble + body + b"--%b--\r\n" % boundary


IMAGE_PART = b'content-disposition: form-data; name="image"; filename="a"'
TEXT_PART = b'content-disposition: form-data; name="a-"'
"""A name that can be decoded as punycode."""


def image_form(make: Make, parts: int) -> bytes:
    return form(*[(IMAGE_PART, make())] * parts)


def text_form(text: bytes, head: bytes = TEXT_PART) -> bytes:
    return form((head, text), (IMAGE_PART, hostile_images.smallest_png()))


def is_slow(name: str) -> bool:
    """Does the attack take a second to build, to send or to process?"""
    return any(part in name for part in ("MB", "million", "7000", "subnormal"))
