"""Packages that are needed for some results only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(package: str, purpose: str, requirement: str) -> Iterator[None]:
    """Raise ImportError with the command that installs `requirement` where the import within fails."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}; install it with: pip install {requirement}") from error
