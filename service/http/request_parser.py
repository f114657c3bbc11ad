"""The bytes of a connection → its requests, parsed in pieces."""

from __future__ import annotations

from itertools import chain
from typing import Protocol
from urllib.parse import unquote

import httptools
from starlette.types import Scope

from service.errors import HeadTooLarge, ServiceError, UnreadableBody
from service.http.request_head import read_head

HEAD_LIMIT = 64 * 2**10
"""Bytes of a request line and its header fields. The bytes around a body's content, as chunk extensions and trailer
fields, have the same limit."""
FIELD_LIMIT = 100
"""Header fields of a request."""
HEAD_PIECE, CHUNKED_PIECE = 2**10, 2**12
"""Bytes parsed at a time where a request may begin, and in a chunked body, which may end anywhere. They limit how many
pipelined requests are parsed before the first one is answered, to some dozens."""
ASGI = {"version": "3.0", "spec_version": "2.4"}
Address = tuple[str, int | None] | None


class Receiver(Protocol):
    """What a parser calls, in this order for each request."""

    def on_request_begin(self) -> None:
        """The first byte of a request was parsed."""

    def on_request(self, scope: Scope, *, keep_alive: bool) -> None:
        """The head is complete; `keep_alive` is whether the connection may stay open after the response."""

    def on_request_body(self, body: bytes) -> None:
        """Some of the body was parsed."""

    def on_request_end(self) -> None:
        """The request is complete."""


class RequestParser:
    """Parses what is received of one connection; its `on_…` methods are called by httptools."""

    def __init__(self, receiver: Receiver, client: Address, server: Address) -> None:
        self.unparsed = b""
        """Bytes received, up to the last that are not parsed yet; empty when all are parsed."""
        self._parsed = 0  # bytes of `unparsed` that are parsed already
        self._receiver = receiver
        self._client = client
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._error: ServiceError | None = None  # raised by a callback: httptools does not pass it on
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._in_head = False
        self._in_body = False
        self._body_left: int | None = None  # bytes; None where the body is chunked
        self._overhead = 0  # bytes parsed since the request began, or since the last content of its body
        self._resumes_body = False  # after an upgrade was declined

    def add(self, data: bytes) -> None:
        """Add received bytes to `unparsed`."""
        self.unparsed = self.unparsed[self._parsed :] + data
        self._parsed = 0

    def discard(self) -> None:
        """Forget what is not parsed; nothing may be parsed afterwards."""
        self.unparsed, self._parsed = b"", 0

    def close(self) -> None:
        """Discard, and break the reference cycles with the receiver and httptools' parser."""
        self.discard()
        del self._receiver, self._parser

    def parse_piece(self) -> None:
        """Parse the next piece of `unparsed`; raises ServiceError if it is not part of an acceptable request."""
        data, start = self.unparsed, self._parsed
        if not self._in_body:
            stop = start + HEAD_PIECE
        elif self._body_left is None:
            stop = start + CHUNKED_PIECE
        else:
            stop = start + self._body_left
        if stop < len(data):
            self._parsed = stop
            piece: bytes | memoryview = memoryview(data)[start:stop]
        else:
            self.unparsed, self._parsed = b"", 0
            piece = memoryview(data)[start:] if start else data
        self._overhead += len(piece)
        self._feed(piece)
        if self._overhead > HEAD_LIMIT and (self._in_head or self._in_body):
            raise _head_too_large()
        if self._in_head and len(self._fields) > FIELD_LIMIT:
            raise _head_too_large()

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._resumes_body:
            self._in_head = True
            self._overhead = 0
            self._target = b""
            self._fields = []
            self._receiver.on_request_begin()

    def on_url(self, url: bytes) -> None:
        """Some of the target was parsed."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field was parsed, or a trailer field (RFC 9110, section 6.5), which is ignored."""
        if self._in_head:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self._resumes_body:
            self._resumes_body = False
            return
        self._in_head = False
        target, parser, fields = self._target, self._parser, self._fields
        version = parser.get_http_version()
        try:
            if len(fields) > FIELD_LIMIT or self._overhead + CHUNKED_PIECE > HEAD_LIMIT:
                self._check_size()
            by_name = read_head(version, fields)
        except ServiceError as error:
            self._error = error
            raise
        if target.startswith(b"/"):
            raw_path, _, query = target.partition(b"?")
        else:
            url = httptools.parse_url(target)
            raw_path, query = url.path or b"/", url.query or b""
        path = raw_path.decode("ascii")
        length = by_name.get(b"content-length")
        self._body_left = None if length is None else int(length)
        self._in_body = True
        scope: Scope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "method": parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": fields,
            "fields": by_name,  # an extension: service.api.request reads it
        }
        self._receiver.on_request(scope, keep_alive=version == "1.1" and parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        """Some of the body was parsed."""
        self._overhead = 0
        if self._body_left is not None:
            self._body_left -= len(body)
        self._receiver.on_request_body(body)

    def on_message_complete(self) -> None:
        """The request is complete, or its head, where it offers another protocol."""
        if not self._parser.should_upgrade():
            self._in_body = False
            self._receiver.on_request_end()

    def _feed(self, data: bytes | memoryview) -> None:
        """Feed httptools' parser, and decline an upgrade to another protocol. Java's client offers HTTP/2.

        httptools leaves what follows the head of such a request to that protocol. A new parser is given a head with the
        same framing and what follows; `_resumes_body` makes the callbacks ignore that head.
        """
        while data:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                framing = [field for field in self._fields if field[0] in (b"content-length", b"transfer-encoding")]
                head = b"".join(b"%b: %b\r\n" % field for field in framing)
                data = b"POST / HTTP/1.1\r\n%b\r\n%b" % (head, bytes(data[upgrade.args[0] :]))
                self._resumes_body = True
                self._parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError:
                raise self._error or UnreadableBody("This is not HTTP/1.1.") from None

    def _check_size(self) -> None:
        """Raise HeadTooLarge for a head over the limits.

        `_overhead` does not suffice: the head may have begun within a piece of the request before.
        """
        fields = self._fields
        size = len(self._target) + sum(map(len, chain.from_iterable(fields))) + 4 * len(fields)
        if len(fields) > FIELD_LIMIT or size > HEAD_LIMIT:
            raise _head_too_large()


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"The request line and header fields are longer than {HEAD_LIMIT} bytes, or more than {FIELD_LIMIT} fields. "
        "Send fewer or shorter ones."
    )
