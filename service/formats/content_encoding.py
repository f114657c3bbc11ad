"""Decompression of bodies by their Content-Encoding (RFC 9110, section 8.4), within `body_limit`."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from service.errors import TooLarge, UnreadableBody, UnsupportedMediaType
from service.memory_budget import UNCOUNTED, Reservation

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WINDOW_LOG = 23
"""Base-2 logarithm of the largest window of a zstd frame in bytes; RFC 8878 requires decoders to support this much."""
MEMBERS = 10_000
"""Most members of a gzip file (RFC 1952) or frames of a zstd stream, because each needs a decompressor of its own."""


class Decompressor(Protocol):
    """A decompressor of one member, as in zlib and compression.zstd."""

    @property
    def eof(self) -> bool:
        """Whether the member is complete."""

    @property
    def unused_data(self) -> bytes:
        """Bytes after the end of the member."""

    def decompress(self, data: bytes, /) -> bytes:
        """Decompress the next bytes."""


class Decoder(NamedTuple):
    """A content coding; `piece` compressed bytes are decompressed at a time, to about 16 MB at most."""

    begin: Callable[[], Decompressor]
    piece: int
    members: int = MEMBERS


def _begin_zstd() -> Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})


GZIP = Decoder(partial(zlib.decompressobj, 16 + zlib.MAX_WBITS), 2**14)
DECODERS = {
    "gzip": GZIP,
    "x-gzip": GZIP,
    "deflate": Decoder(zlib.decompressobj, 2**14, members=1),
    "zstd": Decoder(_begin_zstd, 2**9),
}


def _decode(body: bytes, decoder: Decoder, limit: int, memory: Reservation) -> bytes:
    """Decompress all members, charging `memory`; stop at the first piece beyond `limit` bytes."""
    pieces: list[bytes] = []
    size = charged = 0
    member, members = decoder.begin(), 1
    for start in range(0, len(body), decoder.piece):
        piece = body[start : start + decoder.piece]
        while piece:
            if member.eof:
                if members == decoder.members:
                    raise ValueError(f"it goes on after {members} of them")
                member, members = decoder.begin(), members + 1
            pieces.append(member.decompress(piece))
            size += len(pieces[-1])
            piece = member.unused_data
        if size - charged > UNCOUNTED:
            memory.add(size - charged)
            charged = size
        if size > limit:
            break
    else:
        if not member.eof:
            raise ValueError("it is cut short")
    with memory.hold(size):
        return b"".join(pieces)


def decompress(body: bytes, encoding: str, limit: int, memory: Reservation) -> bytes:
    """Decompress `body`, charging `memory`.

    Raises UnsupportedMediaType, UnreadableBody, TooLarge for more than `limit` bytes, or Unavailable.
    """
    decoder = DECODERS.get(encoding.strip().lower())
    if decoder is None:
        taken = ", ".join(name for name in DECODERS if not name.startswith("x-"))
        raise UnsupportedMediaType(
            f"The content encoding is {encoding!r}; one of {taken} is taken.", headers={"Accept-Encoding": taken}
        )
    try:
        data = _decode(body, decoder, limit, memory)
    except (ValueError, zlib.error, zstd.ZstdError) as error:
        raise UnreadableBody(f"The body is not {encoding}: {error}.") from error
    if len(data) > limit:
        raise TooLarge(f"The body is larger than the {limit} bytes that are taken, once decompressed.")
    return data
