"""Save and load a checkpoint: a safetensors file that describes itself. The article's .pt can be loaded too.

The file's metadata are strings: `format`, `format_version`, and in JSON `config` (VAEConfig), `training` (how the model
was trained) and `figures` (its metrics).
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
from vae.metadata import CheckpointError, CheckpointMetadata, fit_of
from vae.model import VAE

FORMAT = "vae-checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint(CheckpointMetadata):
    """A loaded checkpoint; `model` is float32, in evaluation mode, and needs no gradients."""

    model: VAE


def save(path: Path, model: VAE, *, training: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write a checkpoint atomically, creating missing folders.

    Args:
        path: The file to write, `.safetensors`.
        model: The model, on any device.
        training: How it was trained; values that JSON can represent.
        metrics: What was measured, such as `test_neg_elbo`; losses in nats per image.

    Raises:
        OSError: The file cannot be written; the old one, if any, is unchanged.
        TypeError: JSON cannot represent `training`.

    """
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
    """Load a checkpoint; pickled code is never run.

    Args:
        path: A file that `save` wrote, or the article's state_dict (`.pt`, `.pth`).
        device: Where to put the model.

    Returns:
        The model with its metadata.

    Raises:
        CheckpointError: The file is missing, damaged, or not a checkpoint of this format version.

    """
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
        raise CheckpointError(f"it is not a complete safetensors file ({error}).") from error
    header_size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + header_size]).get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"its metadata lack format={FORMAT}; was it written by vae-train?")
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
        raise CheckpointError(f"its configuration is not valid: {str(error).rstrip('.')}.") from error


def _read_state_dict(content: bytes) -> tuple[VAEConfig, dict[str, Tensor], dict[str, Any]]:
    """Read the article's state_dict, with sizes from its tensors and a square image, grey or RGB."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols; the error below says enough
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises exceptions of many kinds
        raise CheckpointError("it is not a state_dict that torch can read with weights_only=True.") from error
    if not isinstance(tensors, dict) or not all(map(_is_entry, tensors.items())):
        raise CheckpointError("it is not a state_dict, a dict of names and dense tensors.")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    match shapes.get("encoder.0.weight"), shapes.get("mean_layer.weight"):
        case (int(hidden), int(pixels)), (int(latent), _):
            channels = 1 if isqrt(pixels) ** 2 == pixels else 3
            side = isqrt(pixels // channels)
        case _:
            raise CheckpointError("it lacks the matrices encoder.0.weight and mean_layer.weight, which give the sizes.")
    if channels * side * side != pixels:
        raise CheckpointError(f"its images have {pixels} values; a square image, grey or RGB, has another number.")
    try:
        return VAEConfig(image_shape=(channels, side, side), hidden_dim=hidden, latent_dim=latent), tensors, {}
    except ValueError as error:
        raise CheckpointError(f"its matrices do not describe a network: {error}") from error


def _is_entry(item: tuple[object, object]) -> bool:
    name, tensor = item
    dense = isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_meta
    return isinstance(name, str) and dense


def _assemble(config: VAEConfig, tensors: dict[str, Tensor]) -> VAE:
    try:
        with torch.device("meta"):  # allocates nothing before the shapes below are checked
            model = VAE(config)
    except RuntimeError as error:
        raise CheckpointError(f"its configuration describes a network that is too large: {config}.") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise CheckpointError(f"the tensor {name} is missing.")
        if name not in expected:
            raise CheckpointError(f"the tensor {name} is not part of a VAE of its configuration.")
        tensor = tensors[name]
        if tuple(tensor.shape) != expected[name]:
            raise CheckpointError(f"{name} has the shape {tuple(tensor.shape)}; it must be {expected[name]}.")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds values that are not finite numbers.")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return model.eval().requires_grad_(False)
