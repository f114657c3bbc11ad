"""Checks of a request's head that RFC 9112 requires beyond its syntax, which the parser checks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from service.errors import UnreadableBody, UnsupportedTransferCoding, UnsupportedVersion

HOST = re.compile(rb"([\w.~!$&'()*+,;=%-]*|\[[\da-f:.]+\])(:\d*)?", re.ASCII | re.IGNORECASE)
"""Host and port (RFC 3986, sections 3.2.2 and 3.2.3)."""

Headers = Sequence[tuple[bytes, bytes]]


def join_fields(headers: Headers) -> dict[bytes, bytes]:
    """Return header fields by name; the values of a repeated field are joined (RFC 9110, section 5.3)."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def read_head(version: str, headers: Headers) -> dict[bytes, bytes]:
    """Return header fields by name, as `join_fields` does; raises ServiceError for an unacceptable head.

    RFC 9112, sections 2.3, 3.2 and 6.1.
    """
    fields = dict(headers)
    if len(fields) < len(headers):
        fields = join_fields(headers)
    host = fields.get(b"host")
    if version not in ("1.1", "1.0"):
        raise UnsupportedVersion(f"The request uses HTTP/{version}. Send HTTP/1.1.")
    if host is None:
        if version == "1.1":
            raise UnreadableBody("The request has no Host field. HTTP/1.1 requires one.")
    elif not _is_host(host):
        raise UnreadableBody("The Host field must hold exactly one host.")
    if b"transfer-encoding" in fields and fields[b"transfer-encoding"].lower() != b"chunked":
        raise UnsupportedTransferCoding("The transfer coding is not supported. Send chunked, or a Content-Length.")
    return fields


@lru_cache(maxsize=64)
def _is_host(value: bytes) -> bool:
    return HOST.fullmatch(value) is not None
