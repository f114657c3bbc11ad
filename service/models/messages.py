"""What the rollout tells the workers, and what they report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.models.catalogue import Catalogue, Key


@dataclass(frozen=True)
class Proposal:
    """Load what is new in this catalogue, and report."""

    catalogue: Catalogue


@dataclass(frozen=True)
class Outcome:
    """The proposal has been committed, or else dropped."""

    committed: bool


@dataclass(frozen=True)
class Report:
    """What a worker has made of a proposal."""

    number: int
    """Of the catalogue."""
    problems: Mapping[Key, str]
    """A sentence for each model that it cannot load; if there is none, it is ready."""
    hashes: Mapping[Key, str]
    """sha256 of the checkpoint of each model that is loaded."""
