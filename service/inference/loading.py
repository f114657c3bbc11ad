"""Loading the checkpoint, and the choice of what computes it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from service.formats.arrays import Array
from service.inference.backend import Backend
from service.settings import Settings
from vae.arrays import STATE_DICTS, CheckpointArrays, read
from vae.latents import LatentSet
from vae.metadata import CheckpointError, CheckpointMetadata
from vae.probes import Probes

logger = logging.getLogger("vae-service")

TOLERANCE = 1e-5
"""Largest difference of results from torch's on a CPU: absolute, plus relative to the value. Rounding is a tenth of
it."""
DEVICE_TOLERANCE = 1e-2
"""On other devices; a GPU's convolutions may round to TF32."""


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint without its model."""

    metadata: CheckpointMetadata
    parameters: int
    """Number of the model's weights."""
    latents: Mapping[str, Array] | None
    """Latents of the test set, if there are any beside the checkpoint: `mean` (M, D) and `label` (M,)."""


class LoadedModel(NamedTuple):
    """A checkpoint's description, and the backend that computes its model."""

    checkpoint: CheckpointInfo
    backend: Backend


class StartError(Exception):
    """The service cannot start; the message is a sentence for the operator."""


Load = Callable[[], LoadedModel]
"""Loads the model; raises StartError."""


def load_checkpoint(settings: Settings) -> LoadedModel:
    """Load the checkpoint onto its device; raises StartError.

    ONNX Runtime computes a checkpoint of vae-train on the CPU; torch is imported for everything else.
    """
    path = settings.checkpoint
    if settings.runtime == "onnx" and (path.is_dir() or settings.device != "cpu"):
        raise StartError("ONNX Runtime computes checkpoints of vae-train, on the CPU. Leave VAE_RUNTIME unset.")
    if settings.dtype != "float32" and not path.is_dir():
        raise StartError(f"VAE_DTYPE {settings.dtype} is for folders of diffusers; leave it unset for {path.name}.")
    checkpoint: CheckpointMetadata
    backend: Backend
    try:
        if path.is_dir():
            with _requiring_torch("a folder of diffusers", "diffusers"):
                from service.inference.torch_loading import load_folder  # noqa: PLC0415 - imports torch
            checkpoint, parameters, backend = load_folder(settings)
            probes = None
        else:
            checkpoint = stored = _read(path)
            parameters, probes = stored.parameters, stored.probes
            backend = _create_backend(stored, settings)
        latents = LatentSet.load(path, checkpoint.sha256)
    except CheckpointError as error:
        raise StartError(str(error)) from error
    if probes is None:
        logger.info(
            "The checkpoint has no probes: what is computed from it could not be compared with torch's results."
        )
    info = CheckpointInfo(
        CheckpointMetadata(**{field.name: getattr(checkpoint, field.name) for field in fields(CheckpointMetadata)}),
        parameters,
        None if latents is None else {"mean": latents.mean, "label": latents.label},
    )
    return LoadedModel(info, backend)


def _read(path: Path) -> CheckpointArrays:
    if path.suffix not in STATE_DICTS:
        return read(path)
    with _requiring_torch(f"a {path.suffix} file"):
        from vae.checkpoint import read_state_dict  # noqa: PLC0415 - imports torch
    return read_state_dict(path)


def _create_backend(stored: CheckpointArrays, settings: Settings) -> Backend:
    """Create what computes the model, and compare its results for the checkpoint's probes with torch's."""
    if settings.runtime != "torch" and settings.device == "cpu":
        from service.inference.onnx_backend import OnnxBackend  # noqa: PLC0415 - not needed where torch computes

        onnx = OnnxBackend(stored.config, stored.arrays, settings.torch_threads)
        if _agrees(onnx, stored.probes, TOLERANCE):
            return onnx
        if settings.runtime == "onnx" or not find_spec("torch"):
            raise _disagrees("ONNX Runtime", settings)
        logger.warning("%s", _disagrees("ONNX Runtime", settings))
    with _requiring_torch(
        f"a model on {settings.device}" if settings.device != "cpu" else "a model with runtime torch"
    ):
        from service.inference.torch_loading import create_backend  # noqa: PLC0415 - imports torch
    backend = create_backend(stored, settings)
    if not _agrees(backend, stored.probes, TOLERANCE if settings.device == "cpu" else DEVICE_TOLERANCE):
        raise _disagrees("torch", settings)
    return backend


def _agrees(backend: Backend, probes: Probes | None, tolerance: float) -> bool:
    return probes is None or probes.agree(backend.encode, backend.decode, tolerance)


def _disagrees(runtime: str, settings: Settings) -> StartError:
    return StartError(
        f"{runtime} computes other results from {settings.checkpoint} on this machine than torch did when it was saved."
    )


@contextmanager
def _requiring_torch(what: str, extra: str = "torch") -> Iterator[None]:
    """Where torch is not installed, raise StartError with the extra that installs it for `what`."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        problem = f"To load {what}, install torch: pip install 'vae-service[{extra}]'."
        raise StartError(problem) from error
