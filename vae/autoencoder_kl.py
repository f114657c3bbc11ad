"""AutoencoderKL, the autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752), as diffusers saves it.

A checkpoint is a folder with `config.json` and `diffusion_pytorch_model.safetensors`. Only loading one imports
diffusers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae.config import AutoencoderKLConfig
from vae.metadata import CheckpointError, CheckpointMetadata

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


class AutoencoderKL(nn.Module):
    """Encoder x → q(z|x) = N(mean, exp(log_variance)) and decoder z → the mean of p(x|z) = N(image, I).

    Has the methods of `vae.VAE`. Images larger than the nominal shape are computed in tiles, which limits the memory.
    Tiles overlap and are blended; each has its own normalisation statistics, so their borders can be visible.
    """

    def __init__(self, network: Any) -> None:
        """Wrap `network`, a `diffusers.AutoencoderKL`; raises CheckpointError where its configuration is unusable."""
        super().__init__()
        self.network = network
        self.config = _configuration(network.config)
        network.enable_tiling()
        network.tile_latent_min_size = self.config.tile
        network.tile_sample_min_size = self.config.tile * self.config.stride

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and log-variance of q(z|x), each (N, C', h, w), from images (N, C, H, W) in [0, 1]."""
        posterior = self.network.encode(2 * x - 1).latent_dist
        return posterior.mean.contiguous(), posterior.logvar.contiguous()

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents (N, C', h, w) to images (N, C, H, W), approximately in [0, 1]."""
        return self.decode_raw(z).div_(2).add_(0.5)

    def decode_raw(self, z: Tensor) -> Tensor:
        """Decode latents (N, C', h, w) to images (N, C, H, W) in diffusers' range: about [-1, 1], not clipped.

        Their memory format can be channels_last.
        """
        images: Tensor = self.network.decode(z).sample
        return images

    def to_image_(self, decoded: Tensor) -> Tensor:
        """Clip the output of `decode` to [0, 1], in place."""
        return decoded.clamp_(0, 1)

    def reconstruction_loss(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Compute half of the squared error, summed over channels and pixels.

        That is −log N(x; image, I) without its constant, ½·log 2π per value, which would dominate the loss. The ELBO
        minus this constant is a lower bound of log p(x).

        Args:
            decoded: Output (N, C, H, W) of `decode`; the image is `decoded` clipped to [0, 1].
            x: Images (N, C, H, W) in [0, 1].

        Returns:
            Losses (N,) in nats.

        """
        return (decoded.clamp(0, 1) - x).square().flatten(1).sum(1) / 2

    def pixel_losses(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Compute the loss of each pixel of images `x`, summed over channels: (N, 1, H, W), nats."""
        return (decoded.clamp(0, 1) - x).square().sum(1, keepdim=True) / 2


@dataclass(frozen=True)
class DiffusersCheckpoint(CheckpointMetadata):
    """A loaded folder of diffusers; `model` is float32, in evaluation mode, and needs no gradients."""

    model: AutoencoderKL


def load_diffusers(path: Path, device: torch.device | str = "cpu") -> DiffusersCheckpoint:
    """Load a folder that diffusers' `AutoencoderKL.save_pretrained` wrote.

    Args:
        path: The folder.
        device: Where to put the model.

    Returns:
        The model with its name and hash; diffusers records neither training nor metrics.

    Raises:
        CheckpointError: The folder is incomplete, damaged or of another model, or diffusers is not installed.

    """
    try:
        network = _read(path)
        with (path / WEIGHTS).open("rb") as weights:
            sha256 = hashlib.file_digest(weights, "sha256").hexdigest()
        model = AutoencoderKL(network).eval().requires_grad_(False).to(device)
    except CheckpointError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be used: {error}") from error
    name = path.resolve().name
    return DiffusersCheckpoint(name=name, model=model, format_version=0, training={}, metrics={}, sha256=sha256)


def _read(path: Path) -> Any:
    """Load diffusers' network in float32; the file must have exactly its tensors."""
    _check(path)
    try:
        from diffusers import AutoencoderKL as Network  # noqa: PLC0415 - an extra, and takes seconds
    except ImportError as error:
        raise CheckpointError("diffusers is not installed; pip install 'vae-service[diffusers]'.") from error
    try:
        network, found = Network.from_pretrained(
            path,
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


def _check(path: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise CheckpointError(f"the folder has no {name}; diffusers' AutoencoderKL.save_pretrained writes it.")
    try:
        kind = json.loads((path / CONFIG).read_bytes()).get("_class_name")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"its {CONFIG} is not a JSON object.") from error
    if kind != "AutoencoderKL":
        raise CheckpointError(f"its {CONFIG} is for the class {kind!r}; it must be AutoencoderKL.")


def _configuration(config: Any) -> AutoencoderKLConfig:
    side, stride, channels = config.sample_size, 2 ** (len(config.block_out_channels) - 1), config.in_channels
    if type(side) is not int or side < stride or side % stride:
        raise CheckpointError(f"sample_size is {side!r}; it must be a multiple of {stride}.")
    if channels != config.out_channels or channels not in (1, 3):
        raise CheckpointError(
            f"in_channels is {channels} and out_channels is {config.out_channels}; both must be 1, or both 3."
        )
    return AutoencoderKLConfig(
        image_shape=(channels, side, side),
        latent_shape=(config.latent_channels, side // stride, side // stride),
        scaling_factor=config.scaling_factor or 1.0,
        shift_factor=config.shift_factor or 0.0,
    )
