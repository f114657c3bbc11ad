"""multipart/form-data → the pictures in it (RFC 7578).

The body is in memory, so that it is split by searching for its boundary. A streaming parser would run Python code for
each byte of some bodies, and decode text fields by any codec that the request names.
"""

from __future__ import annotations

from collections.abc import Iterator

from python_multipart.multipart import parse_options_header

from service.api.quoting import escape, shorten
from service.errors import InvalidInput, Problem, TooLarge, UnreadableBody

HEAD_BYTES = 2**12
"""Longest header of a part."""
PIECE = 2**20
"""Bytes that are searched at once."""
DISPOSITION_BYTES = 1024
"""Longest Content-Disposition field; the time to parse it grows with the square of its length."""
TYPE_CHARACTERS = 1024
"""Characters of the Content-Type field that are parsed; a boundary has at most 70 (RFC 2046)."""


def read_form(body: bytes, content_type: str, max_parts: int) -> list[tuple[str, bytes]]:
    """Return the files `image` of a form, each with a name for error messages.

    Raises UnreadableBody, TooLarge for more than `max_parts`, and InvalidInput for a part that is not a file `image`.
    """
    _, parameters = parse_options_header(content_type[:TYPE_CHARACTERS])
    boundary = parameters.get(b"boundary", b"")
    if not boundary:
        raise _unreadable("its content type has no boundary")
    pictures = []
    for number, part in enumerate(_parts(body, b"\r\n--" + boundary), start=1):
        if number > max_parts:
            raise TooLarge(f"The form has too many parts; at most {max_parts} are allowed.")
        head, found, content = part.partition(b"\r\n\r\n")
        if not found or len(head) > HEAD_BYTES:
            raise _unreadable(f"part {number} has no header, or one longer than {HEAD_BYTES} bytes")
        _check_disposition(head, number)
        pictures.append((f"Part {number}", content))
    if not pictures:
        raise InvalidInput(Problem("body", "/image", "The form has no part named 'image'."))
    return pictures


def _parts(body: bytes, delimiter: bytes) -> Iterator[bytes]:
    """Yield what is between delimiters, each from the line break before its header."""
    position = body.find(delimiter[2:], 0, len(delimiter))
    if position not in (0, 2):
        raise _unreadable("it does not begin with its boundary")
    position += len(delimiter) - 2
    while not body.startswith(b"--", position):
        line = body.find(b"\r\n", position, position + HEAD_BYTES)
        end = _find(body, delimiter, line)
        if line < 0 or end < 0 or body[position:line].strip(b" \t"):
            raise UnreadableBody("The body is not a complete multipart form: its last boundary is missing.")
        yield body[line:end]
        position = end + len(delimiter)


def _find(body: bytes, delimiter: bytes, start: int) -> int:
    """Search as bytes.find, in pieces, between which other threads can run."""
    for first in range(max(0, start), len(body), PIECE):
        if (found := body.find(delimiter, first, first + PIECE + len(delimiter))) >= 0:
            return found
    return -1


def _check_disposition(head: bytes, number: int) -> None:
    """Raise unless a part's header is that of a file named image."""
    fields = (line.partition(b":") for line in head.split(b"\r\n"))
    values = [value for name, _, value in fields if name.strip().lower() == b"content-disposition"]
    if not values:
        raise _unreadable(f"part {number} has no Content-Disposition field")
    if len(values[0]) > DISPOSITION_BYTES:
        raise _unreadable(f"the Content-Disposition of part {number} is longer than {DISPOSITION_BYTES} bytes")
    _, parameters = parse_options_header(values[0])
    name, is_file = parameters.get(b"name", b"").decode("utf-8", "replace"), b"filename" in parameters
    if name != "image" or not is_file:
        kind = "a file" if is_file else "text"
        problem = f"Part {number} is {kind} named {shorten(name)!r}; files named 'image' are expected."
        raise InvalidInput(Problem("body", f"/{escape(name)}", problem))


def _unreadable(reason: str) -> UnreadableBody:
    return UnreadableBody(f"The body is not a multipart form: {reason}.")
