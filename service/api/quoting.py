"""Shorten names that callers chose, for error messages."""

LETTERS = 100
"""Of a name; a longer one is cut."""


def shorten(name: object) -> str:
    """`name` as text, its middle left out where it is long."""
    text = str(name)
    return text if len(text) <= LETTERS else f"{text[: LETTERS // 2]}…{text[-LETTERS // 4 :]}"


def escape(name: object) -> str:
    """`name` in a JSON pointer (RFC 6901, section 3), shortened."""
    return shorten(name).replace("~", "~0").replace("/", "~1")
