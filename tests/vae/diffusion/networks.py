"""Small autoencoders of diffusers with random weights, one of each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch

BLOCKS = (8, 16)
KL = {
    "block_out_channels": BLOCKS,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 32,
}
WAN = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
MOMENTS = {"latents_mean": (0.5, -1.0, 0.25, 2.0), "latents_std": (2.0, 0.5, 1.5, 3.0)}
OPTIONS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": KL,
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8),
        "num_encoder_blocks": (1, 1, 1),
        "num_decoder_blocks": (1, 1, 1),
        "scaling_factor": 0.5,
        "shift_factor": 0.125,
    },
    "AutoencoderDC": {
        "latent_channels": 4,
        "attention_head_dim": 4,
        "encoder_block_types": ("ResBlock",) * 5 + ("EfficientViTBlock",),
        "decoder_block_types": ("ResBlock",) * 5 + ("EfficientViTBlock",),
        "encoder_block_out_channels": (4, 4, 4, 4, 4, 8),
        "decoder_block_out_channels": (4, 4, 4, 4, 4, 8),
        "encoder_layers_per_block": (1,) * 6,
        "decoder_layers_per_block": (1,) * 6,
        "encoder_qkv_multiscales": ((),) * 5 + ((5,),),
        "decoder_qkv_multiscales": ((),) * 5 + ((5,),),
        "scaling_factor": 0.41407,
    },
    "AsymmetricAutoencoderKL": {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "down_block_out_channels": BLOCKS,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "up_block_out_channels": (16, 24),
        "norm_num_groups": 4,
    },
    "AutoencoderKLFlux2": KL,
    "AutoencoderKLQwenImage": WAN | MOMENTS,
    "AutoencoderKLWan": WAN | MOMENTS,
    "AutoencoderKLHunyuanVideo": {
        "latent_channels": 4,
        "block_out_channels": (4, 4, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 2,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 8,
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "scaling_factor": 0.75,
    },
    "AutoencoderKLCogVideoX": {
        "latent_channels": 4,
        "block_out_channels": (4, 4, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "sample_height": 32,
        "sample_width": 48,
    },
}
"""Class → options of a small network; see `write_network`."""
LTX_WITH_NOISE = {"timestep_conditioning": True, "decoder_inject_noise": (True, False, True, False, True)}
WAN_RESIDUAL = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16}


def create_network(kind: str, **changes: Any) -> Any:
    """Return a network of the class `kind` with random weights and buffers."""
    torch.manual_seed(0)
    network = getattr(diffusers, kind)(**(OPTIONS[kind] | changes)).eval().requires_grad_(False)
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point() and name in ("bn.running_mean", "bn.running_var", "latents_mean", "latents_std"):
            buffer.uniform_(0.5, 2)
    return network


def write_network(folder: Path, kind: str, **changes: Any) -> Any:
    """Save `create_network` to `folder`, and return it."""
    network = create_network(kind, **changes)
    network.save_pretrained(folder)
    return network
