"""A small AutoencoderKL with random weights, saved by diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

BLOCKS = (32, 64)
STRIDE = 2


def write_folder(folder: Path, **changes: Any) -> AutoencoderKL:
    """Save one to `folder`. Images are 3×32×32, latents 4×16×16; decoded pixels exceed [-1, 1]."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "block_out_channels": BLOCKS,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 32,
        "shift_factor": 0.25,
    }
    network = AutoencoderKL(**(options | changes)).eval().requires_grad_(False)
    network.decoder.conv_out.weight *= 3
    network.save_pretrained(folder)
    return network
