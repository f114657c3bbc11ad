"""Checkpoints of either kind, read with torch."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch

from service.inference.onnx_model import CheckpointInfo
from vae.autoencoder_kl import AutoencoderKL, load_diffusers
from vae.checkpoint import load
from vae.latents import LatentSet
from vae.metadata import CheckpointMetadata
from vae.model import VAE


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[VAE | AutoencoderKL, CheckpointInfo]:
    """Read a file of `vae-train` or a folder of diffusers, and the latents beside it; raises CheckpointError."""
    checkpoint = load_diffusers(path, device) if path.is_dir() else load(path, device)
    metadata = CheckpointMetadata(
        **{field.name: getattr(checkpoint, field.name) for field in fields(CheckpointMetadata)}
    )
    latents = LatentSet.load(path, metadata.sha256)
    arrays = None if latents is None else {"mean": latents.mean.numpy(), "label": latents.label.numpy()}
    return checkpoint.model, CheckpointInfo(
        metadata, sum(weights.numel() for weights in checkpoint.model.parameters()), arrays
    )
