"""Content-Encoding: compressed bodies → what they hold (RFC 9110, section 8.4), within the limit of a body."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import zstandard

from service.errors import TooLarge, UnreadableBody, UnsupportedMediaType

WINDOW = 2**23
"""Bytes that a zstd frame may have its decompressor remember; RFC 8878 asks for so many."""


def _inflate(body: bytes, limit: int, wbits: int) -> bytes:
    inflater = zlib.decompressobj(wbits)
    data = inflater.decompress(body, limit + 1)
    if len(data) <= limit and (not inflater.eof or inflater.unused_data):
        raise ValueError("it is cut short, or goes on after its end")
    return data


def _gunzip(body: bytes, limit: int) -> bytes:
    return _inflate(body, limit, 16 + zlib.MAX_WBITS)


def _unzlib(body: bytes, limit: int) -> bytes:
    return _inflate(body, limit, zlib.MAX_WBITS)


def _unzstd(body: bytes, limit: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    with decompressor.stream_reader(body) as reader:
        data = reader.read(limit + 1)
    if len(data) > limit:
        return data
    whole = decompressor.decompressobj()  # the reader does not tell a frame that is cut short
    data = whole.decompress(body)
    if not whole.eof or whole.unused_data:
        raise ValueError("it is cut short, or goes on after its end")
    return data


DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _unzlib,
    "zstd": _unzstd,
}


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """What `body` holds; raises UnsupportedMediaType, UnreadableBody, or TooLarge for more than `limit` bytes."""
    decode = DECODERS.get(encoding.strip().lower())
    if decode is None:
        taken = ", ".join(name for name in DECODERS if not name.startswith("x-"))
        raise UnsupportedMediaType(
            f"The content encoding is {encoding!r}; one of {taken} is taken.", headers={"Accept-Encoding": taken}
        )
    try:
        data = decode(body, limit)
    except (ValueError, zlib.error, zstandard.ZstdError) as error:
        raise UnreadableBody(f"The body is not {encoding}: {error}.") from error
    if len(data) > limit:
        raise TooLarge(f"The body is larger than the {limit} bytes that are taken, once decompressed.")
    return data
