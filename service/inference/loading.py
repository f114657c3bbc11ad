"""Loading the checkpoint: torch reads it, in another process where the service itself needs no torch."""

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
from vae.metadata import CheckpointError


class LoadedModel(NamedTuple):
    """A checkpoint's description, and the backend that computes its model."""

    checkpoint: CheckpointInfo
    backend: Backend


class StartError(Exception):
    """The service cannot start; the message is a sentence for the operator."""


Load = Callable[[], LoadedModel]
"""Waits for the model; raises StartError."""


def load_checkpoint(settings: Settings) -> LoadedModel:
    """Load the checkpoint onto its device; raises StartError."""
    return begin_to_load(settings)()


def begin_to_load(settings: Settings) -> Load:
    """Begin to read the checkpoint, and return the function that waits for it.

    A forked process reads a checkpoint for ONNX Runtime, translates it and computes with torch what the translation is
    compared with: torch would take 400 MB of this process as long as it runs. If torch is imported here already or
    needed anyway, or if threads or the system forbid a fork, the returned function does everything in this process.
    """
    in_other_process = (
        settings.runtime != "torch"
        and settings.device == "cpu"
        and not settings.checkpoint.is_dir()
        and "torch" not in sys.modules
        and threading.active_count() == 1
        and not multiprocessing.current_process().daemon  # such as Hypercorn's workers; it may have no children
        and sys.platform == "linux"
    )
    if not in_other_process:
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
            reason = f"the process that reads it ended with status {process.exitcode}"
            raise StartError(f"The checkpoint {settings.checkpoint} cannot be read: {reason}.") from None
        process.join()
        try:
            if isinstance(read, Exception):
                raise read
            info, model = read
            return LoadedModel(info, OnnxBackend(model, settings.torch_threads))
        except UnsupportedModel as error:
            if settings.runtime == "onnx":
                raise _cannot_compute(error) from error
            return _load_here(settings.model_copy(update={"runtime": "torch"}))
        except CheckpointError as error:
            raise StartError(str(error)) from error

    return load


def _translate(checkpoint: Path, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole process group; the service handles it
    from service.inference.checkpoints import read_checkpoint  # noqa: PLC0415 - imports torch
    from service.inference.onnx_graph import translate  # noqa: PLC0415 - imports torch

    try:
        model, info = read_checkpoint(checkpoint)
        sender.send((info, translate(model)))
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
