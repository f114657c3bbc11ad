"""One save, one load: a safetensors file that describes itself. The article's own .pt is read too.

The file's metadata (strings, as the format demands) are `format`, `format_version`, and as JSON `config` (VAEConfig),
`training` (how it was trained) and `figures` (what was measured).
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as serialize
from torch import Tensor

from vae.config import VAEConfig
from vae.files import write_atomically
from vae.model import VAE
from vae.metadata import CheckpointError, CheckpointMetadata, fit_of

FORMAT = "vae-checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint(CheckpointMetadata):
    """A loaded checkpoint; `model` is in evaluation mode, float32, without gradients."""

    model: VAE


def save(path: Path, model: VAE, *, training: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write `model` with what is known of it to `path`, atomically; `training` must be JSON."""
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(asdict(model.config)),
        "training": json.dumps(dict(training)),
        "figures": json.dumps(dict(metrics)),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, serialize(tensors, metadata))


def load(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read the checkpoint at `path` onto `device`; raises CheckpointError where it is missing, foreign or damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read: {error.strerror}.") from error
    try:
        read = _read_state_dict if path.suffix in (".pt", ".pth") else _read_safetensors
        config, tensors, metadata = read(content)
        fit_of(metadata.get("training", {}))
        model = _assemble(config, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be used: {error}") from error
    return Checkpoint(
        name=path.stem,
        model=model.to(device),
        format_version=int(metadata.get("format_version", 0)),
        training=metadata.get("training", {}),
        metrics=metadata.get("figures", {}),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _read_safetensors(content: bytes) -> tuple[VAEConfig, dict[str, Tensor], dict[str, Any]]:
    try:
        tensors = load_tensors(content)
    except SafetensorError as error:
        raise CheckpointError(f"it is not a whole safetensors file ({error}).") from error
    header_size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + header_size]).get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"its metadata do not say format={FORMAT}; was it written by vae-train?")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise CheckpointError(
            f"it has format version {metadata.get('format_version')}; this release reads version {FORMAT_VERSION}."
        )
    fields: dict[str, Any] = {"format_version": FORMAT_VERSION}
    for name in ("config", "training", "figures"):
        try:
            fields[name] = json.loads(metadata.get(name, ""))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"its metadata field {name} is not JSON.") from error
        if not isinstance(fields[name], dict):
            raise CheckpointError(f"its metadata field {name} is not a JSON object.")
    try:
        shape = tuple(fields["config"].pop("image_shape", ()))
        return VAEConfig(image_shape=shape, **fields["config"]), tensors, fields
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"its configuration is not one of ours: {str(error).rstrip('.')}.") from error


def _read_state_dict(content: bytes) -> tuple[VAEConfig, dict[str, Tensor], dict[str, Any]]:
    """The article's state_dict: sizes are read off the tensors; the image is taken to be square, grey or RGB."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols, which say no more than the error does
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises whatever it trips over
        raise CheckpointError("it is not a state_dict that torch can read with weights_only=True.") from error
    if not isinstance(tensors, dict) or not all(map(_is_entry, tensors.items())):
        raise CheckpointError("it is not a state_dict: names with a dense tensor each.")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    match shapes.get("encoder.0.weight"), shapes.get("mean_layer.weight"):
        case (int(hidden), int(pixels)), (int(latent), _):
            channels = 1 if isqrt(pixels) ** 2 == pixels else 3
            side = isqrt(pixels // channels)
        case _:
            raise CheckpointError("it has no matrices encoder.0.weight and mean_layer.weight to read sizes from.")
    if channels * side * side != pixels:
        raise CheckpointError(f"its images have {pixels} values, neither a square grey nor a square RGB picture.")
    try:
        return VAEConfig(image_shape=(channels, side, side), hidden_dim=hidden, latent_dim=latent), tensors, {}
    except ValueError as error:
        raise CheckpointError(f"its matrices describe no network: {error}") from error


def _is_entry(item: tuple[object, object]) -> bool:
    name, tensor = item
    dense = isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_meta
    return isinstance(name, str) and dense


def _assemble(config: VAEConfig, tensors: dict[str, Tensor]) -> VAE:
    try:
        with torch.device("meta"):  # no memory is taken before the file's tensors are seen to fit
            model = VAE(config)
    except RuntimeError as error:
        raise CheckpointError(f"its configuration describes a network that no memory holds: {config}.") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise CheckpointError(f"the tensor {name} is missing.")
        if name not in expected:
            raise CheckpointError(f"the tensor {name} is no part of a VAE of its configuration.")
        tensor = tensors[name]
        if tuple(tensor.shape) != expected[name]:
            raise CheckpointError(f"{name} has the shape {tuple(tensor.shape)}; {expected[name]} is wanted.")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds values that are not finite numbers.")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return model.eval().requires_grad_(False)
