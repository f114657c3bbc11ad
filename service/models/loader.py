"""Loading an entry of the catalogue: its files are read, checked and compared with what the entry says."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress

from service.inference.loading import LoadedModel, StartError, load_checkpoint
from service.models.catalogue import Entry
from service.models.repository import check_hash, identify
from service.settings import Settings

logger = logging.getLogger("vae-service")

NICENESS = 10
"""Of threads that load, so that requests have the processor first."""


class FilesChanged(StartError):
    """The files of an entry are no longer those that were found; the next look finds them again."""


def load_entry(settings: Settings, entry: Entry) -> LoadedModel:
    """Load the model of `entry`; raises StartError, whose message is a sentence."""
    try:
        return _load(settings, entry)
    except OSError as error:
        raise StartError(f"{entry.path} cannot be read: {error.strerror}.") from error


def _load(settings: Settings, entry: Entry) -> LoadedModel:
    if entry.identity is not None:
        _check_identity(entry)
        if problem := check_hash(entry):
            raise StartError(problem)
    options = entry.options
    applies = settings.models is None or entry.path.is_dir()
    dtype = options.dtype or (settings.dtype if applies else "float32")
    own = {"checkpoint": entry.path, "device": options.device or settings.device, "dtype": dtype}
    try:
        loaded = load_checkpoint(settings.model_copy(update=own))
    except (StartError, OSError):
        if entry.identity is not None:
            _check_identity(entry)
        raise
    except Exception as error:
        logger.exception("The model %s cannot be loaded.", entry)
        raise StartError(f"{entry.path} cannot be loaded: {type(error).__name__}; the log has more.") from error
    if entry.identity is not None:
        _check_identity(entry)
    return loaded


def lower_priority() -> None:
    """Let the threads of requests run before this one."""
    with suppress(AttributeError, OSError):  # where threads have no priority of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _check_identity(entry: Entry) -> None:
    if identify(entry.path) != entry.identity:
        raise FilesChanged(f"{entry.path} changed while it was read.")
