"""Planner: the catalogue that the files in the folder ask for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from service.models.catalogue import Catalogue, Entry, Identity, Key
from service.models.models_file import NAME, ModelsFile, ModelsFileError
from service.models.repository import Listing, Repository

logger = logging.getLogger("vae-service")


class Rejection(NamedTuple):
    """Why files of an identity are not served."""

    identity: Identity
    reason: str


class Planner:
    """Remembers between looks which files may still be written, and which were rejected."""

    def __init__(self, repository: Repository, memory_limit: int | None) -> None:
        """`memory_limit` is how many bytes of files may be loaded at a time."""
        self._repository = repository
        self._memory_limit = memory_limit
        self._before: Listing | None = None
        self._options = ModelsFile()
        self._options_identity: Identity = ()
        self.rejected: dict[str, Rejection] = {}
        """By name/version of a model, or the name of another file."""

    def plan(self, current: Catalogue, *, at_once: bool) -> Catalogue:
        """Return the catalogue that should follow `current`, with its number; `current` where nothing changes.

        A file counts once two looks in a row have found it the same, so that none is read while it is written; with
        `at_once` the first look suffices, and what was rejected is tried again.
        """
        try:
            listing = self._repository.look()
        except OSError as error:
            reason = f"The folder cannot be read: {error.strerror}. What is served stays."
            self.reject(str(self._repository.folder), (), reason)
            return current
        before = listing if at_once else self._before
        self._before = listing
        if before is None:
            return current
        self._forget(listing, at_once=at_once)
        for name, problem in listing.problems.items():
            self.reject(name, (), problem)
        entries = self._entries(current, listing, before)
        if self._options_identity != listing.models_file == before.models_file:
            self._read_options(entries, current, listing)
        entries = {key: entry.with_options(self._options.options(entry.name)) for key, entry in entries.items()}
        self._leave_out_too_large(entries, current)
        return current.changed(entries.values(), self._options.targets)

    def reject(self, name: str, identity: Identity, reason: str) -> None:
        """Do not serve the files of `name` until they change, and tell why."""
        if self.rejected.get(name) != (rejection := Rejection(identity, reason)):
            logger.error("%s: %s", name, reason)
            self.rejected[name] = rejection

    def reject_all(self, entries: Iterable[Entry], reasons: Mapping[Key, str]) -> None:
        """Reject those of `entries` that have a reason."""
        for entry in entries:
            if entry.key in reasons:
                self.reject(str(entry), entry.identity or (), reasons[entry.key])

    def _forget(self, listing: Listing, *, at_once: bool) -> None:
        """Forget the rejections of files that are gone or have changed; with `at_once` all, to try them again."""
        if at_once:
            self.rejected = {}
        identities = {"/".join(key): found.identity for key, found in listing.models.items()}
        identities |= dict.fromkeys(listing.problems, ()) | {NAME: listing.models_file}
        self.rejected = {
            name: rejection for name, rejection in self.rejected.items() if identities.get(name) == rejection.identity
        }

    def _entries(self, current: Catalogue, listing: Listing, before: Listing) -> dict[Key, Entry]:
        """Return what is to be served: the files that are found, or those that are served already."""
        entries: dict[Key, Entry] = {}
        for key, found in listing.models.items():
            rejection = self.rejected.get("/".join(key))
            is_rejected = rejection is not None and rejection.identity == found.identity
            if not is_rejected and before.models.get(key) == found:
                entries[key] = Entry(*key, found.path, found.identity)
            elif key in current.by_key:
                entries[key] = current.by_key[key]
        replaced = before.models.keys() - listing.models.keys()  # gone since the last look: perhaps it comes back
        entries |= {key: current.by_key[key] for key in replaced & current.by_key.keys()}
        return entries or dict(current.by_key)

    def _read_options(self, entries: Mapping[Key, Entry], current: Catalogue, listing: Listing) -> None:
        """Put models.yaml in force, unless it is wrong; its aliases name what is served."""
        planned = current.changed(entries.values(), {}).targets
        served = current.targets if current.entries else planned
        try:
            options = self._repository.read_options()
        except ModelsFileError as error:
            self.reject(NAME, listing.models_file, str(error))
            return
        names = {name for name, _ in listing.models}
        wrong = {alias for alias, target in options.targets.items() if target not in served}
        if wrong and all(options.targets[alias] in planned for alias in wrong):
            return  # until what is new is served
        problems = [f"aliases.{alias} is {options.aliases[alias]}, which is not served" for alias in sorted(wrong)]
        problems += [f"aliases.{alias} is the name of a model" for alias in sorted(names & options.aliases.keys())]
        problems += [f"models.{name} is not in the folder" for name in sorted(options.models.keys() - names)]
        if problems:
            self.reject(NAME, listing.models_file, f"It is not in force: {'; '.join(problems)}.")
            return
        self.rejected.pop(NAME, None)
        self._options, self._options_identity = options, listing.models_file

    def _leave_out_too_large(self, entries: dict[Key, Entry], current: Catalogue) -> None:
        """Reject new models that do not fit into the memory with those that always stay there."""
        if self._memory_limit is None:
            return
        new = [entry for entry in entries.values() if entry != current.by_key.get(entry.key)]
        for entry in sorted(new, key=lambda entry: entry.size, reverse=True):
            staying = sum(each.size for each in entries.values() if not each.is_lazy)
            if (entry.size if entry.is_lazy else staying) <= self._memory_limit:
                continue
            reason = f"It has {entry.size / 1e6:.2f} MB; VAE_MODELS_MEMORY has no room for it."
            self.reject(str(entry), entry.identity or (), reason)
            del entries[entry.key]
            if entry.key in current.by_key:
                entries[entry.key] = current.by_key[entry.key]
