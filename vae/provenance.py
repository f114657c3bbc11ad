"""Where a checkpoint comes from, and what is wrong with one. No torch: who only passes this on need not import it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class CheckpointError(Exception):
    """A file that is not a checkpoint of ours; the message is one sentence that says what is wrong with it."""


@dataclass(frozen=True)
class Provenance:
    """Where a loaded model comes from."""

    name: str
    format_version: int
    training: dict[str, Any]
    figures: dict[str, float]
    sha256: str
    """Of the bytes of the file with the weights, hexadecimal."""
