"""Mutations of bytes."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)
WIDE_EXTREMES = (0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PNG_HEAD = 8
"""Bytes of a PNG's signature."""

Mutation = Callable[[random.Random, bytearray], None]


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Apply one to four mutations to `data`."""
    mutated = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        chance.choice(MUTATIONS)(chance, mutated)
    return bytes(mutated)


def mutate_chunk(chance: random.Random, png: bytes) -> bytes:
    """Mutate, drop or double one chunk of a PNG and correct its checksum, so that decoders read it."""
    chunks = []
    start = PNG_HEAD
    while start < len(png):
        (length,) = struct.unpack_from(">I", png, start)
        chunks.append((png[start + 4 : start + 8], png[start + 8 : start + 8 + length]))
        start += 12 + length
    index = chance.randrange(len(chunks))
    kind, content = chunks[index]
    fate = chance.randrange(6)
    if fate == 0:
        del chunks[index]
    elif fate == 1:
        chunks.insert(chance.randrange(len(chunks)), (kind, content))
    elif fate == 2:
        chunks[index] = (mutate(chance, kind)[:4].ljust(4, b"x"), content)
    else:
        chunks[index] = (kind, mutate(chance, content))
    return png[:PNG_HEAD] + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _flip_bits(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.randint(1, 8)):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set_byte(chance: random.Random, data: bytearray) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice(EXTREMES)


def _set_number(chance: random.Random, data: bytearray) -> None:
    """Overwrite a number near the beginning, where lengths and sizes are, in either byte order."""
    start = chance.randrange(min(64, len(data)) + 1)
    width, code = chance.choice([(2, "H"), (4, "I")])
    number = chance.choice(WIDE_EXTREMES) % 256**width
    data[start : start + width] = struct.pack(chance.choice("<>") + code, number)


def _truncate(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _cut_out(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data) + 1)
    del data[start : start + chance.randint(1, 16)]


def _insert(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = chance.randbytes(chance.randint(1, 16))


def _double(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = data[start : start + chance.randint(1, 64)]


MUTATIONS: tuple[Mutation, ...] = (_flip_bits, _set_byte, _set_number, _truncate, _cut_out, _insert, _double)
