"""What RFC 9112 asks of a request's head beyond its syntax, which the parser sees to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from service.errors import UnreadableBody, UnsupportedTransferCoding, UnsupportedVersion

HOST = re.compile(rb"([\w.~!$&'()*+,;=%-]*|\[[\da-f:.]+\])(:\d*)?", re.ASCII | re.IGNORECASE)
"""RFC 3986, 3.2.2 and 3.2.3."""

Headers = Sequence[tuple[bytes, bytes]]


def join_fields(headers: Headers) -> dict[bytes, bytes]:
    """Header fields by name; those that came several times are joined (RFC 9110, section 5.3)."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def read_head(version: str, headers: Headers) -> dict[bytes, bytes]:
    """Header fields by name, joined; raises a ServiceError (RFC 9112, sections 2.3, 3.2 and 6.1)."""
    fields = dict(headers)
    if len(fields) < len(headers):
        fields = join_fields(headers)
    host = fields.get(b"host")
    if version not in ("1.1", "1.0"):
        raise UnsupportedVersion(f"The request is of HTTP/{version}; HTTP/1.1 is spoken here.")
    if host is None:
        if version == "1.1":
            raise UnreadableBody("The request has no Host field.")
    elif not _is_host(host):
        raise UnreadableBody("The Host field holds no host, or several.")
    if b"transfer-encoding" in fields and fields[b"transfer-encoding"].lower() != b"chunked":
        raise UnsupportedTransferCoding("Of transfer codings chunked alone is taken.")
    return fields


@lru_cache(maxsize=64)
def _is_host(value: bytes) -> bool:
    return HOST.fullmatch(value) is not None
