"""Opening the models: the repository of settings.models, or the one checkpoint of settings.checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from service.inference.loading import LoadedModel
from service.models.catalogue import Catalogue, Entry, Key
from service.models.commit import Commit
from service.models.loader import load_entry
from service.models.planning import Planner
from service.models.repository import FIRST_VERSION, Repository
from service.models.rollout import Rollout
from service.models.states import describe
from service.settings import Settings

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


@dataclass(frozen=True)
class Opened:
    """The models that a worker begins with."""

    catalogue: Catalogue
    loaded: dict[Key, LoadedModel]
    """Those that are loaded already; the worker loads the others."""
    commit: Commit
    rollout: Rollout | None = None
    """What changes them, if that is in this process."""
    changes: Connection | None = None
    """Where the rollout of another process proposes changes."""


Open = Callable[[], Opened]
"""Opens the models; raises StartError."""


def open_models(settings: Settings) -> Opened:
    """Open the models for one process that serves alone."""
    if settings.models is None:
        entry = entry_of_checkpoint(settings)
        return open_checkpoint(entry, load_entry(settings, entry))
    rollout = open_rollout(settings.models, settings, partial(load_entry, settings))
    opened = Opened(rollout.catalogue, rollout.loaded, rollout.commit, rollout)
    rollout.load, rollout.loaded = None, {}  # from now on the worker loads
    return opened


def open_checkpoint(entry: Entry, model: LoadedModel | None) -> Opened:
    """Open the only entry of a service; its `model` is None where the workers load it."""
    catalogue, commit = Catalogue(1, (entry,)), Commit(1)
    loaded = {} if model is None else {entry.key: model}
    commit.publish(describe(catalogue, {key: each.checkpoint.metadata.sha256 for key, each in loaded.items()}))
    return Opened(catalogue, loaded, commit)


def entry_of_checkpoint(settings: Settings) -> Entry:
    """Return the only entry of a service of one checkpoint, which is not watched."""
    path = settings.checkpoint
    return Entry(path.resolve().name if path.is_dir() else path.stem, FIRST_VERSION, path)


def open_rollout(folder: Path, settings: Settings, load: Callable[[Entry], LoadedModel] | None) -> Rollout:
    """Look at a folder of models; `load` is None where only the workers load. Raises StartError."""
    return Rollout(Planner(Repository(folder), settings.models_memory), load)
