"""Catalogue: which models the service answers with, from which files and under which names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from service.errors import NotFound
from service.models.models_file import ModelOptions

DEFAULT = "default"
"""Alias of the model that the plain routes answer with."""

MAX_QUOTED = 100
"""Characters of a client's input in an error message."""

Key = tuple[str, str]
"""Name and version of a model."""
Identity = tuple[tuple[str, int, int, int], ...]
"""Name, inode, bytes and time of change (ns) of each file of a model: another one is another content."""


@dataclass(frozen=True)
class Entry:
    """One version of a model."""

    name: str
    version: str
    path: Path
    identity: Identity | None = None
    """None where the files are not watched."""
    options: ModelOptions = field(default_factory=ModelOptions)

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def key(self) -> Key:
        """Name and version."""
        return self.name, self.version

    @property
    def size(self) -> int:
        """Bytes of its files, about those that it takes in memory."""
        return sum(size for _, _, size, _ in self.identity or ())

    def with_options(self, options: ModelOptions) -> Entry:
        """Return the same files with other options."""
        return self if self.options == options else replace(self, options=options)

    @property
    def is_lazy(self) -> bool:
        """Whether it is loaded at its first use, and not at the start."""
        return self.options.load == "first-use"


@dataclass(frozen=True)
class Catalogue:
    """One generation of the models: all workers answer by the same one."""

    number: int
    entries: tuple[Entry, ...]
    aliases: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    """Alias → name, and version or None for the highest."""

    @cached_property
    def by_key(self) -> Mapping[Key, Entry]:
        """The entries by name and version."""
        return {entry.key: entry for entry in self.entries}

    @cached_property
    def targets(self) -> Mapping[tuple[str | None, str | None], Key]:
        """What (name or alias, version) means; the name None is the default model, the version None the highest."""
        found: dict[tuple[str | None, str | None], Key] = {}
        for entry in sorted(self.entries, key=lambda entry: int(entry.version)):
            found[entry.name, entry.version] = found[entry.name, None] = entry.key
        for alias, target in self.aliases.items():
            if target in found:
                found[alias, None] = found[target]
        default = (
            (DEFAULT, None) if (DEFAULT, None) in found else (min((e.name for e in self.entries), default=""), None)
        )
        if default in found:
            found[None, None] = found[default]
        return found

    def find(self, name: str | None, version: str | None) -> Key:
        """Return the name and version of the model that is meant; raises NotFound."""
        key = self.targets.get((name, version))
        if key is None:
            meant = f"{name or DEFAULT}" if version is None else f"{name}, version {version}"
            raise NotFound(f"There is no model {meant[:MAX_QUOTED]!r}; /models lists those that are served.")
        return key

    def changed(self, entries: Iterable[Entry], aliases: Mapping[str, tuple[str, str | None]]) -> Catalogue:
        """Return the next generation, or this one where it has the same entries and aliases."""
        ordered = tuple(sorted(entries, key=lambda entry: (entry.name, int(entry.version))))
        if (ordered, aliases) == (self.entries, self.aliases):
            return self
        return Catalogue(self.number + 1, ordered, aliases)
