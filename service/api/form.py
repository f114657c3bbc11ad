"""multipart/form-data → the pictures in it (RFC 7578).

The body is in memory, so a search for its boundary cuts it. A streaming parser takes a step of Python for each byte of
some bodies, and decodes text fields by whatever codec the caller names.
"""

from __future__ import annotations

from collections.abc import Iterator

from python_multipart.multipart import parse_options_header

from service.api.quoting import escape, shorten
from service.errors import InvalidInput, Problem, TooLarge, UnreadableBody

HEAD_BYTES = 2**12
"""Of a part's header fields."""
PIECE = 2**20
"""Bytes that are searched in one go."""
DISPOSITION_BYTES = 1024
"""Of a Content-Disposition field; the time that it takes grows with the square."""
TYPE_LETTERS = 1024
"""Characters read of the Content-Type field; a boundary has at most 70 (RFC 2046)."""


def read_form(body: bytes, content_type: str, most: int) -> list[tuple[str, bytes]]:
    """The parts `image`, named for error messages, at most `most`.

    Raises UnreadableBody, TooLarge, and InvalidInput for a part that is no file `image`.
    """
    _, parameters = parse_options_header(content_type[:TYPE_LETTERS])
    boundary = parameters.get(b"boundary", b"")
    if not boundary:
        raise _unreadable("its content type has no boundary")
    pictures = []
    for number, part in enumerate(_parts(body, b"\r\n--" + boundary), start=1):
        if number > most:
            raise TooLarge(f"The form has too many parts; at most {most} are taken.")
        head, found, content = part.partition(b"\r\n\r\n")
        if not found or len(head) > HEAD_BYTES:
            raise _unreadable(f"part {number} has no header, or a longer one than {HEAD_BYTES} bytes")
        _check_disposition(head, number)
        pictures.append((f"Part {number}", content))
    if not pictures:
        raise InvalidInput(Problem("body", "/image", "The form has no part named 'image'."))
    return pictures


def _parts(body: bytes, delimiter: bytes) -> Iterator[bytes]:
    """What lies between delimiters, each beginning with the line break before its header."""
    position = body.find(delimiter[2:], 0, len(delimiter))
    if position not in (0, 2):
        raise _unreadable("it does not begin with its boundary")
    position += len(delimiter) - 2
    while not body.startswith(b"--", position):
        line = body.find(b"\r\n", position, position + HEAD_BYTES)
        end = _find(body, delimiter, line)
        if line < 0 or end < 0 or body[position:line].strip(b" \t"):
            raise UnreadableBody("The body is not a whole multipart form: its last boundary is missing.")
        yield body[line:end]
        position = end + len(delimiter)


def _find(body: bytes, delimiter: bytes, start: int) -> int:
    """As bytes.find, in pieces, between which other threads may run."""
    for first in range(max(0, start), len(body), PIECE):
        if (found := body.find(delimiter, first, first + PIECE + len(delimiter))) >= 0:
            return found
    return -1


def _check_disposition(head: bytes, number: int) -> None:
    """Raise unless the Content-Disposition field is that of a file named image."""
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
        problem = f"Part {number} is {kind} named {shorten(name)!r}; files named 'image' are wanted."
        raise InvalidInput(Problem("body", f"/{escape(name)}", problem))


def _unreadable(reason: str) -> UnreadableBody:
    return UnreadableBody(f"The body is not a multipart form: {reason}.")
