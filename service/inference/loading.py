"""What is served: a checkpoint, read by torch; the process that serves does without torch where it can."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from service.inference.backend import Backend, OnnxBackend
from service.inference.onnx_model import CheckpointInfo, OnnxModel, UnsupportedModel
from service.settings import Settings
from vae.provenance import CheckpointError


class LoadedModel(NamedTuple):
    """What is known of a checkpoint, and what computes its network."""

    known: CheckpointInfo
    backend: Backend


class StartError(Exception):
    """Why the service cannot start, in a sentence for the operator."""


Load = Callable[[], LoadedModel]
"""Raises StartError."""


def load_checkpoint(settings: Settings) -> LoadedModel:
    """The checkpoint on its device; raises StartError."""
    return begin_to_load(settings)()


def begin_to_load(settings: Settings) -> Load:
    """Begin to read the checkpoint; the call waits until it is there.

    A process of its own reads what ONNX Runtime will compute, translates it and tries it on torch, which would take
    400 MB of this one for ever. Where torch is here already, or will have to be, or where threads or the system forbid
    a fork, the call does it all.
    """
    apart = (
        settings.runtime != "torch"
        and settings.device == "cpu"
        and not settings.checkpoint.is_dir()
        and "torch" not in sys.modules
        and threading.active_count() == 1
        and not multiprocessing.current_process().daemon  # such as Hypercorn's workers; it may have no children
        and sys.platform == "linux"
    )
    if not apart:
        return partial(_load_here, settings)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_translate, args=(settings.checkpoint, sender), daemon=True)
    process.start()
    sender.close()

    def load() -> LoadedModel:
        try:
            read: tuple[CheckpointInfo, OnnxModel] | Exception = receiver.recv()
        except EOFError:
            process.join()
            reason = f"the process that reads it has ended with status {process.exitcode}"
            raise StartError(f"The checkpoint {settings.checkpoint} cannot be read: {reason}.") from None
        process.join()
        try:
            if isinstance(read, Exception):
                raise read
            known, translation = read
            return LoadedModel(known, OnnxBackend(translation, settings.torch_threads))
        except UnsupportedModel as error:
            if settings.runtime == "onnx":
                raise _cannot_compute(error) from error
            return _load_here(settings.model_copy(update={"runtime": "torch"}))
        except CheckpointError as error:
            raise StartError(str(error)) from error

    return load


def _translate(checkpoint: Path, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for the service
    from service.inference.checkpoints import read_checkpoint  # noqa: PLC0415 - imports torch
    from service.inference.onnx_graph import translate  # noqa: PLC0415 - imports torch

    try:
        model, known = read_checkpoint(checkpoint)
        sender.send((known, translate(model)))
    except (CheckpointError, UnsupportedModel) as error:
        sender.send(error)


def _load_here(settings: Settings) -> LoadedModel:
    from service.inference import torch_backend  # noqa: PLC0415 - imports torch

    try:
        return LoadedModel(*torch_backend.load(settings))
    except (CheckpointError, torch_backend.DeviceError) as error:
        raise StartError(str(error)) from error
    except UnsupportedModel as error:
        raise _cannot_compute(error) from error


def _cannot_compute(error: UnsupportedModel) -> StartError:
    return StartError(f"ONNX Runtime cannot compute this model: {error}. Leave VAE_RUNTIME unset.")
