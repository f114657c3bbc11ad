"""A checkpoint as NumPy arrays: a safetensors file is read without torch.

The file's metadata are strings: `format`, `format_version`, in JSON `config` (VAEConfig), `training` (how the model was
trained) and `figures` (its metrics), `probes` (see `vae.probes`), which files of the first releases lack, and, where
they were measured, in JSON `calibration` (see `vae.calibration`) and `references` (see `vae.outliers`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from vae.architectures import tensor_shapes
from vae.calibration import Calibration
from vae.config import VAEConfig
from vae.metadata import CheckpointError, CheckpointMetadata, fit_of
from vae.outliers import References
from vae.probes import Probes

FORMAT = "vae-checkpoint"
FORMAT_VERSION = 1
STATE_DICTS = (".pt", ".pth")
"""Suffixes of state_dicts, which `vae.checkpoint` reads with torch."""
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""NumPy's types for safetensors' types of numbers; bfloat16, which it lacks, as 16 bits."""

FloatArray = npt.NDArray[np.float32]
Arrays = Mapping[str, FloatArray]
"""A model's tensors, by the names of its state_dict."""


@dataclass(frozen=True)
class CheckpointArrays(CheckpointMetadata):
    """A checkpoint without a model: its configuration and tensors, which fit each other and are finite."""

    config: VAEConfig
    arrays: Arrays
    probes: Probes | None
    """None in files of other programs and of the first releases."""

    @property
    def parameters(self) -> int:
        """Number of the model's weights."""
        return sum(array.size for array in self.arrays.values())


def read(path: Path) -> CheckpointArrays:
    """Read a safetensors file that `vae.save` wrote; raises CheckpointError."""
    content = read_content(path)
    try:
        return _parse(path.stem, content)
    except CheckpointError as error:
        raise name_path(path, error) from error


def read_content(path: Path) -> bytes:
    """Return the bytes of a checkpoint; raises CheckpointError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read: {error.strerror}.") from error


def name_path(path: Path, error: CheckpointError) -> CheckpointError:
    """Return `error` with the path of the checkpoint in its message."""
    return CheckpointError(f"The checkpoint {path} cannot be used: {error}")


def _parse(name: str, content: bytes) -> CheckpointArrays:
    try:
        tensors = deserialize(content)
    except SafetensorError as error:
        raise CheckpointError(f"it is not a complete safetensors file ({error}).") from error
    header_size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + header_size]).get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"its metadata lack format={FORMAT}; was it written by vae-train?")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise CheckpointError(
            f"it has format version {metadata.get('format_version')}; this release reads version {FORMAT_VERSION}."
        )
    fields = {field: _json_object(metadata, field) for field in ("config", "training", "figures")}
    fit_of(fields["training"])
    try:
        shape = tuple(fields["config"].pop("image_shape", ()))
        latent_map = fields["config"].pop("latent_map", None)
        config = VAEConfig(image_shape=shape, latent_map=latent_map and tuple(latent_map), **fields["config"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"its configuration is not valid: {str(error).rstrip('.')}.") from error
    arrays = check_arrays(config, {tensor: _to_array(tensor, spec) for tensor, spec in tensors})
    calibration, references = _calibration(metadata), _references(metadata, config)
    if calibration and calibration.needs_references and not references:
        raise CheckpointError("its calibration is of outlier factors, but it lacks the metadata field references.")
    return CheckpointArrays(
        name=name,
        format_version=FORMAT_VERSION,
        training=fields["training"],
        metrics=fields["figures"],
        sha256=hashlib.sha256(content).hexdigest(),
        config=config,
        arrays=arrays,
        probes=_probes(metadata, config),
        calibration=calibration,
        references=references,
    )


def check_arrays(config: VAEConfig, arrays: Mapping[str, npt.NDArray[np.floating]]) -> Arrays:
    """Return `arrays` as float32; raises CheckpointError where they are not those of a VAE of `config`, or finite."""
    shapes = tensor_shapes(config)
    for name in sorted(shapes.keys() | arrays.keys()):
        if name not in arrays:
            raise CheckpointError(f"the tensor {name} is missing.")
        if name not in shapes:
            raise CheckpointError(f"the tensor {name} is not part of a VAE of its configuration.")
        if arrays[name].shape != shapes[name]:
            raise CheckpointError(f"{name} has the shape {arrays[name].shape}; it must be {shapes[name]}.")
    with np.errstate(over="ignore"):  # float64 that is infinite as float32 is reported below
        converted = {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}
    for name, array in converted.items():
        if not np.isfinite(array).all():
            raise not_finite(name)
    return converted


def not_finite(name: str) -> CheckpointError:
    """Return the error of a tensor that does not hold finite numbers."""
    return CheckpointError(f"{name} holds values that are not finite numbers.")


def _json_object(metadata: Mapping[str, str], field: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata.get(field, ""))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its metadata field {field} is not JSON.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"its metadata field {field} is not a JSON object.")
    return value


def _to_array(name: str, tensor: Mapping[str, Any]) -> npt.NDArray[np.floating]:
    dtype = DTYPES.get(tensor["dtype"])
    if dtype is None:
        raise not_finite(name)
    values = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    if tensor["dtype"] == "BF16":  # the upper half of a float32
        return (values.astype("<u4") << 16).view(np.float32)
    return values


def _calibration(metadata: Mapping[str, str]) -> Calibration | None:
    if "calibration" not in metadata:
        return None
    document = _json_object(metadata, "calibration")
    try:
        return Calibration.parse(document)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"its metadata field calibration cannot be used: {error}.") from error


def _references(metadata: Mapping[str, str], config: VAEConfig) -> References | None:
    if "references" not in metadata:
        return None
    try:
        return References.parse(metadata["references"], config)
    except ValueError as error:
        raise CheckpointError(f"its metadata field references is damaged: {error}.") from error


def _probes(metadata: Mapping[str, str], config: VAEConfig) -> Probes | None:
    if "probes" not in metadata:
        return None
    try:
        return Probes.parse(metadata["probes"], config)
    except ValueError as error:
        raise CheckpointError(f"its metadata field probes is damaged: {error}.") from error
