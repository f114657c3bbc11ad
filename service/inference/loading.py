"""Load the checkpoint to serve, without importing torch into the serving process if possible."""

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
    """A checkpoint and the backend that computes its network."""

    checkpoint: CheckpointInfo
    backend: Backend


class StartError(Exception):
    """The service cannot start; the message is a sentence for the operator."""


Load = Callable[[], LoadedModel]
"""Raises StartError."""


def load_checkpoint(settings: Settings) -> LoadedModel:
    """Load the checkpoint on its device; raises StartError."""
    return begin_to_load(settings)()


def begin_to_load(settings: Settings) -> Load:
    """Start to read the checkpoint; the returned function waits for it.

    If ONNX Runtime can compute the model, a forked process reads and translates it, because torch would keep 400 MB of
    this process. If torch is loaded or needed here, or a fork is not possible, the returned function does all.
    """
    in_subprocess = (
        settings.runtime != "torch"
        and settings.device == "cpu"
        and not settings.checkpoint.is_dir()
        and "torch" not in sys.modules
        and threading.active_count() == 1
        and sys.platform == "linux"
    )
    if not in_subprocess:
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
            checkpoint, model = read
            return LoadedModel(checkpoint, OnnxBackend(model, settings.torch_threads))
        except UnsupportedModel as error:
            if settings.runtime == "onnx":
                raise _cannot_compute(error) from error
            return _load_here(settings.model_copy(update={"runtime": "torch"}))
        except CheckpointError as error:
            raise StartError(str(error)) from error

    return load


def _translate(checkpoint: Path, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service handles it
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
