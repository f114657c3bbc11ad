"""Loading a folder that diffusers wrote. Only calling `load_diffusers` imports diffusers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vae.diffusion.classes import CLASSES
from vae.diffusion.dtypes import Dtype
from vae.diffusion.model import DiffusionModel
from vae.metadata import CheckpointError, CheckpointMetadata

PIPELINE, AUTOENCODER = "model_index.json", "vae"
"""The file that a whole pipeline's folder has, and the folder in it with the autoencoder."""
CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
VARIANT = "fp16"
"""The variant of the weights that is taken where WEIGHTS is missing: `diffusion_pytorch_model.fp16.safetensors`."""


@dataclass(frozen=True)
class DiffusersCheckpoint(CheckpointMetadata):
    """A loaded folder of diffusers; `model` is in evaluation mode and needs no gradients."""

    model: DiffusionModel


def load_diffusers(path: Path, device: torch.device | str = "cpu", dtype: Dtype = "float32") -> DiffusersCheckpoint:
    """Load the autoencoder of a folder that `save_pretrained` of diffusers wrote.

    Args:
        path: The folder of an autoencoder, or of a whole pipeline.
        device: Where to put the model.
        dtype: In which the network computes; float32 where its configuration wants that instead of float16.

    Returns:
        The model with its name and hash; diffusers records neither training nor metrics.

    Raises:
        CheckpointError: The folder is incomplete, damaged or of another model, or diffusers is not installed.

    """
    folder = path / AUTOENCODER if (path / PIPELINE).is_file() else path
    try:
        kind = _class_of(folder)
        variant, files = _weights(folder)
        network = _read(folder, kind, variant)
        model = DiffusionModel(network, dtype).eval().requires_grad_(False).to(device)
        _check_shapes(model, device)
    except CheckpointError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be used: {error}") from error
    name = path.resolve().name
    return DiffusersCheckpoint(name=name, model=model, format_version=0, training={}, metrics={}, sha256=_hash(files))


def _class_of(folder: Path) -> str:
    if not (folder / CONFIG).is_file():
        raise _missing(folder, CONFIG)
    try:
        kind = json.loads((folder / CONFIG).read_bytes()).get("_class_name")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"its {CONFIG} is not a JSON object.") from error
    if not isinstance(kind, str) or kind not in CLASSES:
        known = ", ".join(CLASSES)
        raise CheckpointError(f"its {CONFIG} is for the class {kind!r}; it must be one of: {known}.")
    return kind


def _weights(folder: Path) -> tuple[str | None, list[Path]]:
    """Return the variant of the weights, None for the usual one, and their files."""
    for variant, name, index in (
        (None, WEIGHTS, f"{WEIGHTS}.index.json"),
        (VARIANT, WEIGHTS.replace(".", f".{VARIANT}."), f"{WEIGHTS}.index.{VARIANT}.json"),
    ):
        if (folder / index).is_file():  # diffusers looks for it first
            return variant, _shards(folder, index)
        if (folder / name).is_file():
            return variant, [folder / name]
    raise _missing(folder, WEIGHTS)


def _shards(folder: Path, index: str) -> list[Path]:
    """Return the files that an index names; diffusers would read other formats too, and files elsewhere."""
    try:
        names = sorted(set(json.loads((folder / index).read_bytes())["weight_map"].values()))
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"its {index} does not map tensors to files.") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"its {index} names {name!r}, which is no .safetensors file beside it.")
        if not (folder / name).is_file():
            raise _missing(folder, name)
    return [folder / name for name in names]


def _missing(folder: Path, name: str) -> CheckpointError:
    return CheckpointError(f"the folder {folder.name} has no {name}; save_pretrained of diffusers writes it.")


def _read(folder: Path, kind: str, variant: str | None) -> Any:
    """Load diffusers' network in float32; the files must have exactly its tensors."""
    try:
        import diffusers  # noqa: PLC0415 - an extra, and takes seconds
    except ImportError as error:
        raise CheckpointError("diffusers is not installed; pip install 'vae-service[diffusers]'.") from error
    network_class = getattr(diffusers, kind, None)
    if network_class is None:
        version = f"diffusers {diffusers.__version__} has no {kind}"
        raise CheckpointError(f"{version}; pip install --upgrade diffusers.")
    try:
        network, found = network_class.from_pretrained(
            folder,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers documents no exceptions
        raise CheckpointError(f"diffusers cannot read it ({str(error).strip().partition(chr(10))[0]}).") from error
    for problem, names in (("is missing", found["missing_keys"]), ("is not part of it", found["unexpected_keys"])):
        if names:
            raise CheckpointError(f"its {CONFIG} describes another network: the tensor {min(names)} {problem}.")
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds values that are not finite numbers.")
    return network


@torch.no_grad()
def _check_shapes(model: DiffusionModel, device: torch.device | str) -> None:
    """Encode and decode a small image or video: a configuration can name other strides than its network has."""
    config = model.config
    frames = (2 * config.temporal_stride + 1,) if config.is_video else ()
    image_shape = config.image_shape[0], *frames, 2 * config.stride, 2 * config.stride
    latent_shape = config.latent_shape_of(image_shape)
    try:
        mean, _ = model.encode(torch.zeros(1, *image_shape, device=device))
        image = model.decode_raw(torch.zeros(1, *latent_shape, device=device))
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"its network cannot be computed in {config.dtype} on {device} ({reason}).") from error
    for tensor, shape in ((mean, latent_shape), (image, image_shape)):
        if tensor.shape[1:] != shape:
            raise CheckpointError(f"its network computes the shape {list(tensor.shape[1:])} instead of {list(shape)}.")


def _hash(files: Sequence[Path]) -> str:
    sha256 = hashlib.sha256()
    for file in files:
        with file.open("rb") as weights:
            while chunk := weights.read(2**20):
                sha256.update(chunk)
    return sha256.hexdigest()
