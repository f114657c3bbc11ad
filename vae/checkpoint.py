"""Save and load a checkpoint: a safetensors file as `vae.arrays` describes it; loads the article's .pt too."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize
from torch import Tensor

from vae.arrays import (
    FORMAT,
    FORMAT_VERSION,
    STATE_DICTS,
    CheckpointArrays,
    check_arrays,
    name_path,
    not_finite,
    read,
    read_content,
)
from vae.calibration import Calibration
from vae.config import VAEConfig
from vae.files import write_atomically
from vae.metadata import CheckpointError, CheckpointMetadata
from vae.model import VAE
from vae.outliers import References
from vae.probes import FloatArray, Probes


@dataclass(frozen=True)
class Checkpoint(CheckpointMetadata):
    """A loaded checkpoint; `model` is float32, in evaluation mode, and needs no gradients."""

    model: VAE


def save(
    path: Path,
    model: VAE,
    *,
    training: Mapping[str, Any],
    metrics: Mapping[str, float],
    calibration: Calibration | None = None,
    references: References | None = None,
) -> None:
    """Write a checkpoint atomically, creating missing folders.

    Args:
        path: The file to write, `.safetensors`.
        model: The model, on any device.
        training: How it was trained; values that JSON can represent.
        metrics: What was measured, such as `test_neg_elbo`; losses in nats per image.
        calibration: How a score of its validation images is distributed.
        references: Latents of training images, which outlier factors are computed from.

    Raises:
        OSError: The file cannot be written; the old one, if any, is unchanged.
        TypeError: JSON cannot represent `training`.
        ValueError: The calibration is of outlier factors, and there are no references.

    """
    if calibration and calibration.needs_references and references is None:
        raise ValueError("The calibration is of outlier factors: give the references that they were computed from.")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(asdict(model.config)),
        "training": json.dumps(dict(training)),
        "figures": json.dumps(dict(metrics)),
        "probes": str(compute_probes(model)),
    }
    if calibration:
        metadata["calibration"] = json.dumps(asdict(calibration))
    if references:
        metadata["references"] = str(references)
    write_atomically(path, serialize(tensors, metadata))


def compute_probes(model: VAE) -> Probes:
    """Compute probes of `model` on the CPU, in float32 and evaluation mode."""
    reference = copy.deepcopy(model).cpu().float().eval()

    def encode(images: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean, log_variance = reference.encode(torch.from_numpy(images))
        return mean.numpy(), log_variance.numpy()

    def decode(z: FloatArray) -> FloatArray:
        image: FloatArray = reference.to_image_(reference.decode(torch.from_numpy(z))).numpy()
        return image

    with torch.inference_mode():
        return Probes.compute(model.config, encode, decode)


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
    stored = read_state_dict(path) if path.suffix in STATE_DICTS else read(path)
    metadata = {field.name: getattr(stored, field.name) for field in fields(CheckpointMetadata)}
    model = to_model(stored).to(device)
    model.metadata = CheckpointMetadata(**metadata)
    return Checkpoint(**metadata, model=model)


def read_state_dict(path: Path) -> CheckpointArrays:
    """Read the article's state_dict; raises CheckpointError."""
    content = read_content(path)
    try:
        config, tensors = _parse(content)
        arrays = check_arrays(config, {name: _to_array(name, tensor) for name, tensor in tensors.items()})
    except CheckpointError as error:
        raise name_path(path, error) from error
    return CheckpointArrays(
        name=path.stem,
        format_version=0,
        training={},
        metrics={},
        sha256=hashlib.sha256(content).hexdigest(),
        config=config,
        arrays=arrays,
        probes=None,
    )


def to_model(stored: CheckpointArrays) -> VAE:
    """Return the model of `stored` on the CPU, in evaluation mode and without gradients."""
    with torch.device("meta"):  # draws no weights
        model = VAE(stored.config)
    model.load_state_dict({name: torch.tensor(array) for name, array in stored.arrays.items()}, assign=True)
    return model.eval().requires_grad_(False)


def _parse(content: bytes) -> tuple[VAEConfig, dict[str, Tensor]]:
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
        return VAEConfig(image_shape=(channels, side, side), hidden_dim=hidden, latent_dim=latent), tensors
    except ValueError as error:
        raise CheckpointError(f"its matrices do not describe a network: {error}") from error


def _to_array(name: str, tensor: Tensor) -> FloatArray:
    if not tensor.is_floating_point():
        raise not_finite(name)
    array: FloatArray = tensor.detach().float().numpy()
    return array


def _is_entry(item: tuple[object, object]) -> bool:
    name, tensor = item
    dense = isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_meta
    return isinstance(name, str) and dense
