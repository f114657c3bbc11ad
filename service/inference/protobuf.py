"""Writes messages in the wire format of Protocol Buffers (protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

import struct
from collections.abc import Iterable

Value = int | float | str | bytes


def message(*fields: tuple[int, Value | Iterable[Value]]) -> bytes:
    """Write fields, each its number and its value; an iterable of values is a repeated field.

    Integers are written as varints, floats as 32 bits, and strings, bytes and messages with their length.
    """
    parts: list[bytes] = []
    for number, value in fields:
        for each in [value] if isinstance(value, Value) else value:
            parts += _field(number, each)
    return b"".join(parts)


def _field(number: int, value: Value) -> tuple[bytes, bytes]:
    if isinstance(value, int):
        return _varint(number << 3), _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5), struct.pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)), content


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # a negative number is written as its two's complement of 64 bits
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
