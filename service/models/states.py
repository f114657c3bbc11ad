"""The state of each model, as /models tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from service.models.catalogue import DEFAULT, Catalogue, Entry, Key
from service.models.planning import Rejection

State = Literal["ready", "loading", "failed"]


def describe(
    catalogue: Catalogue,
    hashes: Mapping[Key, str],
    proposed: Catalogue | None = None,
    rejected: Mapping[str, Rejection] | None = None,
) -> bytes:
    """Return JSON, a list of what is served, loaded and rejected.

    `state` and `reason` are those of the newest files; `sha256` is that of the checkpoint that is served, if any is.
    """
    states = {str(entry): _state(entry, catalogue, hashes) for entry in catalogue.entries}
    for entry in proposed.entries if proposed else ():
        if entry != catalogue.by_key.get(entry.key):
            states.setdefault(str(entry), _unserved(*entry.key))["state"] = "loading"
    for file, rejection in (rejected or {}).items():
        name, _, version = file.partition("/")
        states.setdefault(file, _unserved(name, version)).update(state="failed", reason=rejection.reason)
    return orjson.dumps([states[name] for name in sorted(states)])


def _state(entry: Entry, catalogue: Catalogue, hashes: Mapping[Key, str]) -> dict[str, Any]:
    names = {
        name or DEFAULT
        for (name, version), key in catalogue.targets.items()
        if key == entry.key and version is None and name != entry.name
    }
    served = {"aliases": sorted(names), "state": "ready", "sha256": hashes.get(entry.key), "load": entry.options.load}
    return _unserved(*entry.key) | served


def _unserved(name: str, version: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "aliases": [],
        "state": "loading",
        "reason": None,
        "sha256": None,
        "load": None,
    }
