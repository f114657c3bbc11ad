"""Paths that name a model: /models/NAME/decode is /decode of the model NAME, in the version of ?version= if given."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

PREFIX = "/models/"
VERSION = "version"


def split_path(path: str) -> tuple[str, str] | None:
    """Return the model's name and the path of the operation, or None where `path` names no model."""
    if not path.startswith(PREFIX):
        return None
    name, slash, operation = path.removeprefix(PREFIX).partition("/")
    return (name, slash + operation) if name and operation else None


def split_query(query: bytes) -> tuple[str | None, bytes]:
    """Return the version that a query string names, and the query string without it."""
    if VERSION.encode() not in query:
        return None, query
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    versions = [value for name, value in pairs if name == VERSION]
    if len(versions) != 1:  # several are a wrong parameter like any other
        return None, query
    rest = [(name, value) for name, value in pairs if name != VERSION]
    return versions[0], urlencode(rest, encoding="latin-1").encode()
