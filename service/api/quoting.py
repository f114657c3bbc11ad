"""Shorten names from requests for error messages."""

MAX_CHARACTERS = 100
"""Of a name that an error message quotes."""


def shorten(name: object) -> str:
    """Return `name` as text; the middle of a long one is left out."""
    text = str(name)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS // 2]}…{text[-MAX_CHARACTERS // 4 :]}"


def escape(name: object) -> str:
    """Return `name` as a part of a JSON pointer (RFC 6901, section 3), shortened."""
    return shorten(name).replace("~", "~0").replace("/", "~1")
