"""AutoencoderKL, the autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752), as diffusers keeps it.

A checkpoint is a folder: `config.json` and `diffusion_pytorch_model.safetensors`. diffusers is imported when one is
loaded, not before.
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

    Images larger than the nominal one go through the network tile by tile, so that memory grows more slowly than they
    do. The tiles overlap and are blended; each is normalised by itself, so that they may be seen.
    """

    def __init__(self, network: Any) -> None:
        """`network` is diffusers' own."""
        super().__init__()
        self.network = network
        self.config = _configuration(network.config)
        network.enable_tiling()
        network.tile_latent_min_size = self.config.tile
        network.tile_sample_min_size = self.config.tile * self.config.stride

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [0, 1] → mean and log-variance of q(z|x), (N, C', h, w) each."""
        posterior = self.network.encode(2 * x - 1).latent_dist
        return posterior.mean.contiguous(), posterior.logvar.contiguous()

    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, C', h, w) → images (N, C, H, W), about in [0, 1]."""
        return self.decode_raw(z).div_(2).add_(0.5)

    def decode_raw(self, z: Tensor) -> Tensor:
        """Latents (N, C', h, w) → images (N, C, H, W) as diffusers has them: about in [-1, 1], and not clipped.

        Their channels may lie last in memory.
        """
        images: Tensor = self.network.decode(z).sample
        return images

    def to_image_(self, decoded: Tensor) -> Tensor:
        """What `decode` gave, clipped to [0, 1], in place."""
        return decoded.clamp_(0, 1)

    def reconstruction_loss(self, decoded: Tensor, x: Tensor) -> Tensor:
        """−log N(x; image, I) of images `x` (N, C, H, W), summed over pixels, without its constant; (N,), nats.

        That is half of the squared error. The image is what `decode` gave, clipped. The constant, ½·log 2π a value,
        would hide what differs from image to image: less it, the ELBO bounds the log-density of x.
        """
        return (decoded.clamp(0, 1) - x).square().flatten(1).sum(1) / 2


@dataclass(frozen=True)
class DiffusersCheckpoint(CheckpointMetadata):
    """A loaded folder; `model` is in evaluation mode, float32, without gradients."""

    model: AutoencoderKL


def load_diffusers(path: Path, device: torch.device | str = "cpu") -> DiffusersCheckpoint:
    """Read diffusers' folder at `path` onto `device`; raises CheckpointError where it is foreign or damaged."""
    try:
        network = _read(path)
        with (path / WEIGHTS).open("rb") as weights:
            sha256 = hashlib.file_digest(weights, "sha256").hexdigest()
        model = AutoencoderKL(network).eval().requires_grad_(False).to(device)
    except CheckpointError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be used: {error}") from error
    return DiffusersCheckpoint(name=path.resolve().name, model=model, format_version=0, training={}, metrics={}, sha256=sha256)


def _read(path: Path) -> Any:
    """Diffusers' own network, float32, with all its weights and no others."""
    _check(path)
    try:
        from diffusers import AutoencoderKL as Network  # noqa: PLC0415 # seconds, and an extra
    except ImportError as error:
        raise CheckpointError("it takes diffusers to read it; pip install 'vae-service[diffusers]'.") from error
    try:
        network, found = Network.from_pretrained(
            path,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers raises whatever it trips over
        raise CheckpointError(f"diffusers cannot read it ({str(error).strip().partition(chr(10))[0]}).") from error
    for complaint, names in (("is missing", found["missing_keys"]), ("is no part of it", found["unexpected_keys"])):
        if names:
            raise CheckpointError(f"its {CONFIG} describes another network: the tensor {min(names)} {complaint}.")
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds values that are not finite numbers.")
    return network


def _check(path: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise CheckpointError(f"it is a folder without {name}; diffusers' AutoencoderKL.save_pretrained writes it.")
    try:
        kind = json.loads((path / CONFIG).read_bytes()).get("_class_name")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"its {CONFIG} is not a JSON object.") from error
    if kind != "AutoencoderKL":
        raise CheckpointError(f"its {CONFIG} is that of {kind!r}; AutoencoderKL is wanted.")


def _configuration(config: Any) -> AutoencoderKLConfig:
    side, stride, channels = config.sample_size, 2 ** (len(config.block_out_channels) - 1), config.in_channels
    if type(side) is not int or side < stride or side % stride:
        raise CheckpointError(f"sample_size is {side!r}; a multiple of {stride} is wanted.")
    if channels != config.out_channels or channels not in (1, 3):
        raise CheckpointError(f"it has {channels} channels in, {config.out_channels} out; 1 or 3 of both are wanted.")
    return AutoencoderKLConfig(
        image_shape=(channels, side, side),
        latent_shape=(config.latent_channels, side // stride, side // stride),
        scaling_factor=config.scaling_factor or 1.0,
        shift_factor=config.shift_factor or 0.0,
    )
